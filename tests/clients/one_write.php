<?php
// Writes once, and prints what it is told: one_write.php LIBRARY PORT, as the library comes.

[, $library, $port] = $argv;
try {
    if ($library === 'phpredis') {
        $redis = new Redis();
        $redis->connect('127.0.0.1', (int) $port, 10);
    } else {
        require 'Predis/Autoloader.php';
        Predis\Autoloader::register();
        $redis = new Predis\Client(['port' => (int) $port]);
    }
    $redis->set('key', 'value');
    echo "OK\n";
} catch (Exception $error) {
    echo "error: {$error->getMessage()}\n";
}
