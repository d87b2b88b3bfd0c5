# Writes once, and prints what it is told: one_write.rb PORT [default]. With `default`, as redis-rb comes; without, set
# so that it repeats nothing.
require 'redis'

options = ARGV[1] ? {} : { reconnect_attempts: 0 }
begin
  Redis.new(port: ARGV[0].to_i, **options).set('key', 'value')
  puts 'OK'
rescue Redis::BaseError => error
  puts "error: #{error.message}"
end
