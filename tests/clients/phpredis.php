<?php
// Drives a server with phpredis: phpredis.php PORT [PASSWORD]. Fails at the first surprise.

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
    } catch (RedisException $error) {
        return $error->getMessage();
    }
    throw new Exception('saw ' . var_export($saw, true) . ' instead of an error');
}

function client(int $port, ?string $password): Redis
{
    $redis = new Redis();
    expect($redis->connect('127.0.0.1', $port, 10), true);
    if ($password !== null) {
        expect($redis->auth($password), true);
    }
    return $redis;
}

[$port, $password] = [(int) $argv[1], $argv[2] ?? null];
$redis = client($port, $password);
expect($redis->flushAll(), true);
expect($redis->ping(), true);
expect($redis->set('name', 'Dylan'), true);
expect($redis->get('name'), 'Dylan');
expect($redis->get('nobody'), false);
$bytes = str_repeat(implode('', array_map('chr', range(0, 255))), 4096 * 4);
expect($redis->set("by\0tes\r\n", $bytes), true);
expect($redis->get("by\0tes\r\n"), $bytes);
expect($redis->strlen("by\0tes\r\n"), strlen($bytes));
expect($redis->mset(['a' => '1', 'b' => '2']), true);
expect($redis->mget(['a', 'nobody', 'b']), ['1', false, '2']);
expect($redis->exists('a', 'b', 'nobody'), 2);
expect($redis->dbSize(), 4);
$found = [];
for ($cursor = null; ($keys = $redis->scan($cursor, '?')) !== false;) {
    $found = array_merge($found, $keys);
}
sort($found);
expect($found, ['a', 'b']);
expect($redis->del('a', 'nobody'), 1);
expect($redis->info()['role'], 'master');

// An error is no value, and the next reply is that of the next command.
expect($redis->rawCommand('NONSENSE', 'a'), false);
expect(strpos($redis->getLastError(), "ERR unknown command 'NONSENSE'"), 0);
$redis->clearLastError();
expect($redis->get('name'), 'Dylan');

$pipeline = $redis->pipeline();
$wanted = [];
for ($number = 0; $number < 1000; $number++) {
    $pipeline->set("key$number", "$number")->get("key$number")->get('nobody');
    array_push($wanted, true, "$number", false);
}
expect($pipeline->exec(), $wanted);

// A transaction fails and changes nothing, and the replies after it are in step. (phpredis does not read an error at EXEC,
// also not one of Redis: it goes on to wait for the replies of the commands until its time is over.)
$redis->setOption(Redis::OPT_READ_TIMEOUT, 1);
$transaction = $redis->multi()->set('never', 'x')->del('name')->get('b');
expect(refused(fn () => $transaction->exec()) !== '', true);
$redis = client($port, $password);
expect($redis->get('b'), '2');
expect($redis->mget(['never', 'name']), [false, 'Dylan']);
$redis->multi()->set('never', 'x');
expect($redis->discard(), true);
expect($redis->get('name'), 'Dylan');

if ($password !== null) {
    expect(strpos(refused(fn () => client($port, null)->get('name')), 'NOAUTH '), 0);
    expect(strpos(refused(fn () => client($port, 'wrong')), 'WRONGPASS '), 0);
}
echo "ok\n";
