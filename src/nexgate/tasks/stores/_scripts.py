"""What is done to jobs in Redis, in Lua: each change is whole.

Above each script are its arguments, after the prefix of all keys.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "AGAIN",
    "BURY",
    "CANCEL",
    "CLAIM",
    "COMPLETE",
    "DROP",
    "ENQUEUE",
    "EXTEND",
    "LEAVE",
    "OPEN",
    "PROGRESS",
    "REVIVE",
]

# ARGV[1] is the prefix everywhere.
_COMMON: Final = """
local p = ARGV[1]
local priorities = {'high', 'normal', 'low'}
local function stream(task, priority) return p .. 'of:' .. priority .. ':' .. task end
local function groups(task)
  for _, priority in ipairs(priorities) do
    redis.pcall('XGROUP', 'CREATE', stream(task, priority), 'workers', '0', 'MKSTREAM')
  end
end
local function wake(id) redis.call('XADD', p .. 'wake', 'MAXLEN', '1', '*', 'i', id) end
local function later(id, at)
  redis.call('ZADD', p .. 'delayed', at, id)
  if redis.call('ZRANGE', p .. 'delayed', 0, 0)[1] == id then wake(id) end
end
local function ready(id)
  local job = redis.call('HMGET', p .. 'job:' .. id, 'task', 'priority')
  if not job[1] then return end
  if redis.call('SADD', p .. 'tasks', job[1]) == 1 then groups(job[1]) end
  redis.call('HSET', p .. 'job:' .. id, 'entry',
    redis.call('XADD', stream(job[1], job[2]), '*', 'i', id))
  wake(id)
end
local function clear(id)
  local job = redis.call('HMGET', p .. 'job:' .. id, 'entry', 'task', 'priority')
  if job[1] then
    local from = stream(job[2], job[3])
    redis.call('XACK', from, 'workers', job[1])
    redis.call('XDEL', from, job[1])
    redis.call('HDEL', p .. 'job:' .. id, 'entry')
  end
  redis.call('ZREM', p .. 'delayed', id)
end
local function into(id, state, at)
  local old = redis.call('HGET', p .. 'job:' .. id, 'state')
  if old then redis.call('ZREM', p .. 'in:' .. old, id) end
  redis.call('HSET', p .. 'job:' .. id, 'state', state)
  redis.call('ZADD', p .. 'in:' .. state, at, id)
end
local function ended(id, now, keep)
  redis.call('ZADD', p .. 'ends', now + keep, id)
  local key = redis.call('HGET', p .. 'job:' .. id, 'key')
  redis.call('EXPIRE', p .. 'job:' .. id, keep)
  if key and key ~= '' then redis.call('EXPIRE', p .. 'key:' .. key, keep) end
end
local function forget(id)
  clear(id)
  local job = redis.call('HMGET', p .. 'job:' .. id, 'state', 'key')
  if job[2] and job[2] ~= '' then redis.call('DEL', p .. 'key:' .. job[2]) end
  redis.call('ZREM', p .. 'in:' .. job[1], id)
  redis.call('ZREM', p .. 'ends', id)
  redis.call('DEL', p .. 'job:' .. id)
end
local function mine(id, token)
  local job = redis.call('HMGET', p .. 'job:' .. id, 'state', 'token')
  return job[1] == 'running' and job[2] == token
end
"""
# id, task, body, due, priority, key, now, most
ENQUEUE: Final = (
    _COMMON
    + """
local id, key = ARGV[2], ARGV[7]
if key ~= '' then
  local known = redis.call('GET', p .. 'key:' .. key)
  if known and redis.call('EXISTS', p .. 'job:' .. known) == 1 then return known end
end
if tonumber(ARGV[9]) > 0 and redis.call('ZCARD', p .. 'in:waiting') >= tonumber(ARGV[9]) then
  return redis.error_reply('FULL')
end
if key ~= '' then redis.call('SET', p .. 'key:' .. key, id) end
redis.call('HSET', p .. 'job:' .. id, 'task', ARGV[3], 'body', ARGV[4], 'due', ARGV[5],
  'priority', ARGV[6], 'key', key, 'created', ARGV[8], 'failures', 0, 'claims', 0)
into(id, 'waiting', ARGV[8])
if tonumber(ARGV[5]) > tonumber(ARGV[8]) then
  later(id, ARGV[5])
else
  ready(id)
end
return id
"""
)
# worker, token, now, room, at once, turn, the three priorities in order, lease in ms or 0 for no
# look for the jobs of dead workers, tasks to pass over
CLAIM: Final = (
    _COMMON
    + """
local me, token, now, room = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local ends = redis.call('ZRANGEBYSCORE', p .. 'ends', '-inf', now, 'LIMIT', 0, ARGV[6])
for _, id in ipairs(ends) do
  redis.call('ZREM', p .. 'ends', id)
  redis.call('ZREM', p .. 'in:done', id)
  redis.call('ZREM', p .. 'in:cancelled', id)
  redis.call('DEL', p .. 'job:' .. id)
end
local due = redis.call('ZRANGEBYSCORE', p .. 'delayed', '-inf', now, 'LIMIT', 0, ARGV[6])
for _, id in ipairs(due) do
  redis.call('ZREM', p .. 'delayed', id)
  ready(id)
end
local skip, tasks, claims = {}, {}, {}
for at = 12, #ARGV do skip[ARGV[at]] = true end
for _, task in ipairs(redis.call('SMEMBERS', p .. 'tasks')) do
  if not skip[task] then tasks[#tasks + 1] = task end
end
table.sort(tasks)
local function begin(from, found)
  for _, each in ipairs(found) do
    local entry, id = each and each[1], each and each[2] and each[2][2]
    local job = id and p .. 'job:' .. id
    if job and redis.call('HGET', job, 'entry') == entry then
      into(id, 'running', now)
      redis.call('HSET', job, 'token', token, 'begun', now)
      redis.call('HINCRBY', job, 'claims', 1)
      local said = redis.call('HMGET', job, 'task', 'body', 'failures', 'claims', 'ends')
      claims[#claims + 1] = {id, said[1], said[2], said[3], said[4], said[5] and 1 or 0}
    elseif entry then
      redis.call('XACK', from, 'workers', entry)
      redis.call('XDEL', from, entry)
    end
  end
end
-- The first task of a look is another each time: one with much to do leaves the others their turn.
local function each_stream(use)
  for place = 8, 10 do
    for number = 1, #tasks do
      if #claims >= room then return end
      use(stream(tasks[(number + ARGV[7]) % #tasks + 1], ARGV[place]))
    end
  end
end
if tonumber(ARGV[11]) > 0 then
  each_stream(function(from)
    local cursor = '0-0'
    repeat
      local found = redis.call('XAUTOCLAIM', from, 'workers', me, ARGV[11], cursor,
        'COUNT', room - #claims)
      cursor = found[1]
      begin(from, found[2])
    until cursor == '0-0' or #claims >= room
  end)
end
each_stream(function(from)
  local found = redis.call('XREADGROUP', 'GROUP', 'workers', me, 'COUNT', room - #claims,
    'STREAMS', from, '>')
  if found then begin(from, found[1][2]) end
end)
local woken = redis.call('XREVRANGE', p .. 'wake', '+', '-', 'COUNT', 1)
local soonest = redis.call('ZRANGE', p .. 'delayed', 0, 0, 'WITHSCORES')
return {claims, woken[1] and woken[1][1] or '0-0', soonest[2] or ''}
"""
)
# worker, then id and token of each
EXTEND: Final = (
    _COMMON
    + """
local found = {}
for at = 3, #ARGV, 2 do
  local id = ARGV[at]
  if mine(id, ARGV[at + 1]) then
    local job = redis.call('HMGET', p .. 'job:' .. id, 'entry', 'task', 'priority', 'ends')
    redis.call('XCLAIM', stream(job[2], job[3]), 'workers', ARGV[2], 0, job[1], 'JUSTID')
    found[#found + 1] = job[4] and 'ends' or 'kept'
  else
    found[#found + 1] = 'lost'
  end
end
return found
"""
)
# id, token, result, now, keep
COMPLETE: Final = (
    _COMMON
    + """
local id = ARGV[2]
if not mine(id, ARGV[3]) then return 0 end
if tonumber(ARGV[6]) <= 0 then
  forget(id)
  return 1
end
clear(id)
into(id, 'done', ARGV[5])
redis.call('HSET', p .. 'job:' .. id, 'result', ARGV[4], 'ended', ARGV[5], 'body', '')
ended(id, ARGV[5], ARGV[6])
return 1
"""
)
# id, token, due, now, error, failed (0 or 1)
AGAIN: Final = (
    _COMMON
    + """
local id, job = ARGV[2], p .. 'job:' .. ARGV[2]
if not mine(id, ARGV[3]) then return 0 end
clear(id)
into(id, 'waiting', ARGV[5])
redis.call('HDEL', job, 'token')
if ARGV[7] == '1' then
  redis.call('HSET', job, 'claims', 0)
  redis.call('HINCRBY', job, 'failures', 1)
else
  redis.call('HINCRBY', job, 'claims', -1)
end
if ARGV[6] ~= '' then redis.call('HSET', job, 'error', ARGV[6]) end
if tonumber(ARGV[4]) > tonumber(ARGV[5]) then
  redis.call('HSET', job, 'due', ARGV[4])
  later(id, ARGV[4])
else
  ready(id)
end
return 1
"""
)
# id, token, error, now
BURY: Final = (
    _COMMON
    + """
local id = ARGV[2]
if not mine(id, ARGV[3]) then return 0 end
clear(id)
into(id, 'dead', ARGV[5])
redis.call('HSET', p .. 'job:' .. id, 'error', ARGV[4], 'ended', ARGV[5])
redis.call('HINCRBY', p .. 'job:' .. id, 'failures', 1)
return 1
"""
)
# id, token ('' when it waits), now, keep
CANCEL: Final = (
    _COMMON
    + """
local id, job = ARGV[2], p .. 'job:' .. ARGV[2]
local state = redis.call('HGET', job, 'state')
if not state then return false end
if ARGV[3] == '' and state == 'running' then
  redis.call('HSET', job, 'ends', 1)
  return state
end
if state == 'waiting' or (state == 'running' and mine(id, ARGV[3])) then
  clear(id)
  into(id, 'cancelled', ARGV[4])
  redis.call('HSET', job, 'ended', ARGV[4])
  ended(id, ARGV[4], ARGV[5])
  return 'cancelled'
end
return state
"""
)
# id, now
REVIVE: Final = (
    _COMMON
    + """
local id, job = ARGV[2], p .. 'job:' .. ARGV[2]
local state = redis.call('HGET', job, 'state')
if state ~= 'dead' and state ~= 'cancelled' then return 0 end
redis.call('ZREM', p .. 'ends', id)
redis.call('PERSIST', job)
local key = redis.call('HGET', job, 'key')
if key ~= '' then redis.call('PERSIST', p .. 'key:' .. key) end
redis.call('HDEL', job, 'ends', 'ended', 'token')
redis.call('HSET', job, 'failures', 0, 'claims', 0, 'due', ARGV[3])
into(id, 'waiting', ARGV[3])
ready(id)
return 1
"""
)
# id, token, said
PROGRESS: Final = (
    _COMMON
    + """
if mine(ARGV[2], ARGV[3]) then redis.call('HSET', p .. 'job:' .. ARGV[2], 'progress', ARGV[4]) end
"""
)
# id
DROP: Final = (
    _COMMON
    + """
local state = redis.call('HGET', p .. 'job:' .. ARGV[2], 'state')
if not state or state == 'running' then return 0 end
forget(ARGV[2])
return 1
"""
)

# no arguments
OPEN: Final = (
    _COMMON
    + """
for _, task in ipairs(redis.call('SMEMBERS', p .. 'tasks')) do groups(task) end
"""
)
# worker; one that has something keeps its name, because with it goes what it has
LEAVE: Final = (
    _COMMON
    + """
for _, task in ipairs(redis.call('SMEMBERS', p .. 'tasks')) do
  for _, priority in ipairs(priorities) do
    local from = stream(task, priority)
    local has = redis.pcall('XPENDING', from, 'workers', '-', '+', 1, ARGV[2])
    if not has.err and #has == 0 then
      redis.pcall('XGROUP', 'DELCONSUMER', from, 'workers', ARGV[2])
    end
  end
end
"""
)
