-- Appends one entry to a member's ring, and the decision's log row to the outbox, if the ring is as the writer read it.
-- KEYS: ring, generation, outbox
-- ARGV: generation, count and incarnation as read; incarnation of a new ring; capacity; time to live in ms; frame;
--       log row (may be left out)
-- Returns 1 if both were written, 0 if the ring has changed and nothing was.
local ring, outbox = KEYS[1], KEYS[3]
local new_incarnation, capacity, ttl_ms, frame, log_row = ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8]

local generation = redis.call('GET', KEYS[2]) or '0'
local found = redis.call('HMGET', ring, 'g', 'i', 'n', 'c')
local function number(text)
  return text and #text <= 10 and string.match(text, '^%d+$') and tonumber(text)
end
local incarnation, count, old_capacity = number(found[2]), number(found[3]), number(found[4])
-- A ring of an older generation has been emptied; one without its numbers, or with wild ones, is no ring.
local live = found[1] == generation and incarnation and count and old_capacity and old_capacity >= 1
  and old_capacity <= 1024 and count < 4294967295
if not live then
  incarnation, count = 0, 0
end
if generation ~= ARGV[1] or count ~= tonumber(ARGV[2]) or incarnation ~= tonumber(ARGV[3]) then
  return 0
end

-- First what can fail (an outbox key of another type), so that a failure leaves nothing behind.
if log_row then
  redis.call('XADD', outbox, '*', 'r', log_row)
end
if not live then
  redis.call('DEL', ring)
  redis.call('HSET', ring, 'g', generation, 'i', new_incarnation, 'c', capacity)
elseif old_capacity ~= capacity then
  -- The capacity was changed: move the entries that stay to their slots under the new one.
  local kept = {}
  for sequence = math.max(0, count - math.min(old_capacity, capacity)), count - 1 do
    local value = redis.call('HGET', ring, sequence % old_capacity)
    if value then
      kept[#kept + 1] = sequence % capacity
      kept[#kept + 1] = value
    end
  end
  for slot = 0, old_capacity - 1 do
    redis.call('HDEL', ring, slot)
  end
  redis.call('HSET', ring, 'c', capacity, unpack(kept))
end
redis.call('HSET', ring, count % capacity, frame, 'n', count + 1)
redis.call('PEXPIRE', ring, ttl_ms)
return 1
