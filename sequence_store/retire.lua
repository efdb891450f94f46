-- Strikes out fields of the registry, and sets others, if it is as the caller read it.
-- KEYS: registry
-- ARGV: epoch as read; new epoch; then pairs of field and value, an empty one to strike the field out
-- Returns 1 if that was done, 0 if the registry has changed and nothing was.
if (redis.call('HGET', KEYS[1], 'epoch') or '') ~= ARGV[1] then
  return 0
end
for place = 3, #ARGV, 2 do
  if ARGV[place + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[place])
  else
    redis.call('HSET', KEYS[1], ARGV[place], ARGV[place + 1])
  end
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2])
return 1
