# Drives a server with Perl's Redis.pm: redis_pm.pl PORT [PASSWORD]. Fails at the first surprise.
use strict;
use warnings;
use Redis;

my ($port, $password) = @ARGV;

sub client {
    my ($secret) = @_;
    my @credentials = defined $secret ? (password => $secret) : ();
    return Redis->new(server => "127.0.0.1:$port", cnx_timeout => 10, read_timeout => 10, write_timeout => 10, @credentials);
}

sub expect {
    my ($saw, $wanted) = @_;
    my ($left, $right) = map { defined $_ ? $_ : '(undef)' } $saw, $wanted;
    $left eq $right or die 'saw ' . substr($left, 0, 300) . ' instead of ' . substr($right, 0, 300);
}

# The message of the error that the code must end in.
sub refused {
    my ($act) = @_;
    my $saw = eval { $act->() };
    return $@ if $@;
    die 'saw ' . ($saw // '(undef)') . ' instead of an error';
}

sub matches {
    my ($saw, $wanted) = @_;
    index($saw, $wanted) >= 0 or die "saw $saw instead of $wanted";
}

my $redis = client($password);
expect($redis->flushall, 'OK');
expect($redis->ping, 'PONG');
expect($redis->set(name => 'Dylan'), 'OK');
expect($redis->get('name'), 'Dylan');
expect($redis->get('nobody'), undef);
my $bytes = join('', map { chr } 0 .. 255) x 16384;
expect($redis->set("by\0tes\r\n" => $bytes), 'OK');
expect($redis->get("by\0tes\r\n"), $bytes);
expect($redis->mset(a => 1, b => 2), 'OK');
expect(join(',', map { $_ // '(undef)' } $redis->mget('a', 'nobody', 'b')), '1,(undef),2');
expect($redis->dbsize, 4);
expect(join(',', sort $redis->keys('?')), 'a,b');
expect($redis->del('a', 'nobody'), 1);
expect($redis->info->{role}, 'master');

# An error is no value, and the next reply is that of the next command.
matches(refused(sub { $redis->nonsense('a') }), "unknown command 'NONSENSE'");
expect($redis->get('name'), 'Dylan');

# Callbacks make a pipeline.
my @values;
for my $number (0 .. 999) {
    $redis->set("key$number" => $number, sub { });
    $redis->get("key$number", sub { my ($reply, $error) = @_; push @values, $reply // $error });
}
$redis->wait_all_responses;
expect(join(',', @values), join(',', 0 .. 999));

# A transaction fails and changes nothing.
expect($redis->multi, 'OK');
expect($redis->set(never => 'x'), 'QUEUED');
expect($redis->del('name'), 'QUEUED');
matches(refused(sub { $redis->exec }), 'EXECABORT Transaction discarded: ');
expect($redis->get('never'), undef);
expect($redis->get('name'), 'Dylan');

if (defined $password) {
    matches(refused(sub { client(undef)->get('name') }), 'NOAUTH ');
    matches(refused(sub { client('wrong')->get('name') }), 'WRONGPASS ');
}
print "ok\n";
