# Drives a server with redis-rb: redis_rb.rb PORT [PASSWORD]. Fails at the first surprise.
require 'redis'

PORT = ARGV[0].to_i
PASSWORD = ARGV[1]

def client(password = PASSWORD)
  Redis.new(port: PORT, password: password, timeout: 10, reconnect_attempts: 0)
end

def expect(saw, wanted)
  raise "saw #{saw.inspect[0, 300]} instead of #{wanted.inspect[0, 300]}" unless saw == wanted
end

# The message of the error that the block must end in.
def refused
  saw = yield
rescue Redis::BaseError => error
  error.message
else
  raise "saw #{saw.inspect} instead of an error"
end

redis = client
expect(redis.flushall, 'OK')
expect(redis.ping, 'PONG')
expect(redis.set('name', 'Dylan'), 'OK')
expect(redis.get('name'), 'Dylan')
expect(redis.get('nobody'), nil)
bytes = (0..255).to_a.pack('C*') * 16_384
expect(redis.set("by\0tes\r\n", bytes), 'OK')
expect(redis.get("by\0tes\r\n").b, bytes)
expect(redis.mset('a', '1', 'b', '2'), 'OK')
expect(redis.mget('a', 'nobody', 'b'), ['1', nil, '2'])
expect(redis.exists('a', 'b', 'nobody'), 2)
expect(redis.dbsize, 4)
expect(redis.scan_each(match: '?').sort, %w[a b])
expect(redis.del('a', 'nobody'), 1)
expect(redis.info['role'], 'master')

# An error is no value, and the next reply is that of the next command.
expect(refused { redis.call('NONSENSE', 'a') }.start_with?("ERR unknown command 'NONSENSE'"), true)
expect(redis.get('name'), 'Dylan')

replies = redis.pipelined do |pipeline|
  1000.times do |number|
    pipeline.set("key#{number}", number)
    pipeline.get("key#{number}")
    pipeline.get('nobody')
  end
end
expect(replies, (0...1000).flat_map { |number| ['OK', number.to_s, nil] })

# A transaction fails and changes nothing, and the replies after it are in step.
message = refused do
  redis.multi do |transaction|
    transaction.set('never', 'x')
    transaction.del('name')
  end
end
expect(message.start_with?('EXECABORT Transaction discarded: '), true)
expect(redis.mget('never', 'name'), [nil, 'Dylan'])

if PASSWORD
  expect(refused { client(nil).get('name') }.start_with?('NOAUTH '), true)
  expect(refused { client('wrong').get('name') }.include?('WRONGPASS '), true)
end
puts 'ok'
