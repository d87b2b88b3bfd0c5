<?php
// Drives a server with Predis: predis.php PORT [PASSWORD]. Fails at the first surprise.

require 'Predis/Autoloader.php';
Predis\Autoloader::register();

function expect($saw, $wanted)
{
    if ($saw !== $wanted) {
        throw new Exception('saw ' . substr(var_export($saw, true), 0, 300) . ' instead of ' . substr(var_export($wanted, true), 0, 300));
    }
}

/** The message of the error that `$act` must end in. */
function refused(callable $act): string
{
    try {
        $saw = $act();
    } catch (Predis\PredisException | TypeError $error) {
        return $error->getMessage();
    }
    throw new Exception('saw ' . var_export($saw, true) . ' instead of an error');
}

function client(int $port, ?string $password): Predis\Client
{
    return new Predis\Client(['host' => '127.0.0.1', 'port' => $port, 'timeout' => 10, 'password' => $password]);
}

[$port, $password] = [(int) $argv[1], $argv[2] ?? null];
$redis = client($port, $password);
expect((string) $redis->flushall(), 'OK');
expect((string) $redis->ping(), 'PONG');
expect((string) $redis->set('name', 'Dylan'), 'OK');
expect($redis->get('name'), 'Dylan');
expect($redis->get('nobody'), null);
$bytes = str_repeat(implode('', array_map('chr', range(0, 255))), 4096 * 4);
expect((string) $redis->set("by\0tes\r\n", $bytes), 'OK');
expect($redis->get("by\0tes\r\n"), $bytes);
expect((string) $redis->mset(['a' => '1', 'b' => '2']), 'OK');
expect($redis->mget(['a', 'nobody', 'b']), ['1', null, '2']);
expect($redis->exists('a', 'b', 'nobody'), 2);
expect($redis->dbsize(), 4);
$found = iterator_to_array(new Predis\Collection\Iterator\Keyspace($redis, '?'), false);
sort($found);
expect($found, ['a', 'b']);
expect($redis->del('a', 'nobody'), 1);
expect($redis->info()['Replication']['role'], 'master');

// An error is no value, and the next reply is that of the next command.
$reply = $redis->executeRaw(['NONSENSE', 'a'], $failed);
expect([$failed, strpos($reply, "ERR unknown command 'NONSENSE'")], [true, 0]);
expect(strpos(refused(fn () => $redis->set('name', 'x', 'EX', 10)), 'ERR syntax error: SET has no option'), 0);
expect($redis->get('name'), 'Dylan');

$replies = $redis->pipeline(function ($pipeline) {
    for ($number = 0; $number < 1000; $number++) {
        $pipeline->set("key$number", "$number")->get("key$number")->get('nobody');
    }
});
expect(count($replies), 3000);
expect([(string) $replies[2997], $replies[2998], $replies[2999]], ['OK', '999', null]);

// A transaction fails and changes nothing, and the replies after it are in step.
$message = refused(fn () => $redis->transaction(fn ($it) => $it->set('never', 'x')->del('name')->get('b')));
expect(strpos($message, 'EXECABORT Transaction discarded: '), 0);
expect($redis->get('b'), '2');
// (Predis takes the error at EXEC for an array here, which is an error of PHP's.)
expect(refused(fn () => $redis->pipeline(['atomic' => true], fn ($it) => $it->set('never', 'x')->del('name'))) !== '', true);
expect($redis->get('b'), '2');
expect($redis->mget(['never', 'name']), [null, 'Dylan']);

if ($password !== null) {
    expect(strpos(refused(fn () => client($port, null)->get('name')), 'NOAUTH '), 0);
    expect(strpos(refused(fn () => client($port, 'wrong')->get('name')), 'WRONGPASS ') !== false, true);
}
echo "ok\n";
