"""What Redis does in one step. Written for Redis 7 and Valkey 7.2 or newer."""

from storage.redis.link import Script

ENTRY_ARGUMENTS = 9

APPEND = Script("""
-- Accept changes, each by itself: all of it or nothing.
-- KEYS: meta log marks claims voids known
-- ARGV: epoch, space, seconds a key is remembered, then for each entry
-- order, version, seen, scope, claims, releases, forgotten order, payload, value
-- (without an order, the version is the position that the database is known to have reached)
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'head', 'floor')
if meta[1] ~= ARGV[1] then return {'epoch'} end
local head, floor = tonumber(meta[2]), tonumber(meta[3])
local first = head
local space, keep = ARGV[2], ARGV[3]
local results = {}
for at = 6, #ARGV, 9 do
    if tonumber(ARGV[at]) > head then return {'lost', head} end
end
for at = 4, #ARGV, 9 do
    local order, version, seen, scope = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 3]
    local claims, releases, forgotten = ARGV[at + 4], ARGV[at + 5], ARGV[at + 6]
    local verdict
    local owning = order ~= '' and order or 'another'
    if seen < floor then
        verdict = 'behind ' .. floor
    elseif scope ~= '' and (redis.call('EXISTS', space .. 'key:' .. scope) == 1
            or redis.call('SISMEMBER', KEYS[6], scope) == 1) then
        verdict = 'answered'
    elseif order ~= '' then
        local mark = redis.call('HGET', KEYS[3], order)
        if mark then
            local known, n = string.match(mark, '^(%d+) (%d+)$')
            if tonumber(known) + 1 ~= version or tonumber(n) > seen then verdict = 'superseded ' .. n end
        end
    end
    if not verdict then
        for claim in string.gmatch(claims, '[^\\31]+') do
            local held = redis.call('HGET', KEYS[4], claim)
            local owner = held and string.match(held, '^%d+ (.*)$')
            if owner and owner ~= '' and owner ~= order then
                verdict = 'claimed ' .. claim .. '\\31' .. owner
                break
            end
        end
    end
    if verdict then
        results[#results + 1] = verdict
    else
        head = head + 1
        redis.call('XADD', KEYS[2], ARGV[1] .. '-' .. head,
            'p', ARGV[at + 7], 'o', order, 'c', claims .. '\\31' .. releases, 'f', forgotten)
        if order ~= '' then
            redis.call('HSET', KEYS[3], order, version .. ' ' .. head)
            redis.call('SET', space .. 'order:' .. order, ARGV[at + 8])
        end
        if scope ~= '' then
            redis.call('SET', space .. 'key:' .. scope, head .. ' ' .. ARGV[at + 7], 'EX', keep)
        end
        for claim in string.gmatch(claims, '[^\\31]+') do
            redis.call('HSET', KEYS[4], claim, head .. ' ' .. owning)
        end
        for claim in string.gmatch(releases, '[^\\31]+') do
            redis.call('HSET', KEYS[4], claim, head .. ' ')
        end
        if forgotten ~= '' then
            redis.call('HSET', KEYS[5], forgotten, head)
            local mark = redis.call('HGET', KEYS[3], forgotten)
            local flushed = math.max(tonumber(redis.call('HGET', KEYS[1], 'flushed')), version)
            if not mark or tonumber(string.match(mark, ' (%d+)$')) <= flushed then
                redis.call('DEL', space .. 'order:' .. forgotten)
            end
        end
        results[#results + 1] = head
    end
end
if head > first then redis.call('HSET', KEYS[1], 'head', head) end
return {'done', results}
""")

FILL = Script("""
-- Offer orders that were read from the database. Never goes backwards.
-- KEYS: meta marks voids   ARGV: epoch, space, seconds to keep, then for each: order, version, seen, value
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'floor')
if meta[1] ~= ARGV[1] then return -1 end
local kept = 0
for at = 4, #ARGV, 4 do
    local order, version, seen = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local mark = redis.call('HGET', KEYS[2], order)
    local void = redis.call('HGET', KEYS[3], order)
    local known = redis.call('GETRANGE', ARGV[2] .. 'order:' .. order, 0, 20)
    local held = tonumber(string.match(known, '^1(%d+) ') or '0')
    if seen >= tonumber(meta[2])
            and not (mark and tonumber(string.match(mark, '^%d+')) > version)
            and not (void and tonumber(void) > seen)
            and held < version then
        redis.call('SET', ARGV[2] .. 'order:' .. order, ARGV[at + 3], 'EX', ARGV[3])
        kept = kept + 1
    end
end
return kept
""")

FLUSHED = Script("""#!lua flags=allow-oom
-- The database has the log up to a position: say so, let what it has expire, trim what nobody needs any more.
-- KEYS: meta log flushed marks claims voids
-- ARGV: epoch, space, position, the position before with the refused ones, seconds to keep, entries to keep,
-- entries to trim, orders
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'head', 'flushed', 'floor')
if meta[1] ~= ARGV[1] then return -1 end
local upto, head, floor = tonumber(ARGV[3]), tonumber(meta[2]), tonumber(meta[4])
if upto > tonumber(meta[3]) then
    redis.call('HSET', KEYS[1], 'flushed', upto)
    redis.call('XADD', KEYS[3], 'MAXLEN', 64, ARGV[1] .. '-' .. upto, 'r', ARGV[4])
end
for at = 8, #ARGV do
    local mark = redis.call('HGET', KEYS[4], ARGV[at])
    if not mark or tonumber(string.match(mark, ' (%d+)$')) <= upto then
        redis.call('EXPIRE', ARGV[2] .. 'order:' .. ARGV[at], ARGV[5])
    end
end
local last = math.min(upto, head - tonumber(ARGV[6]), floor + tonumber(ARGV[7]))
if last > floor then
    for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', ARGV[1] .. '-' .. last)) do
        local n, fields = string.match(entry[1], '%-(%d+)$'), {}
        for at = 1, #entry[2], 2 do fields[entry[2][at]] = entry[2][at + 1] end
        local mark = redis.call('HGET', KEYS[4], fields.o)
        if mark and string.match(mark, ' (%d+)$') == n then
            redis.call('HDEL', KEYS[4], fields.o)
            redis.call('EXPIRE', ARGV[2] .. 'order:' .. fields.o, ARGV[5], 'NX')
        end
        for claim in string.gmatch(fields.c, '[^\\31]+') do
            local held = redis.call('HGET', KEYS[5], claim)
            if held and string.match(held, '^(%d+) ') == n then redis.call('HDEL', KEYS[5], claim) end
        end
        if fields.f ~= '' and redis.call('HGET', KEYS[6], fields.f) == n then
            redis.call('HDEL', KEYS[6], fields.f)
        end
    end
    redis.call('XTRIM', KEYS[2], 'MINID', ARGV[1] .. '-' .. (last + 1))
    redis.call('HSET', KEYS[1], 'floor', last)
end
return last
""")

BEGIN = Script("""
-- A new life of the log, unless another process has begun it.
-- KEYS: meta   ARGV: installation, epoch, run
local meta = redis.call('HMGET', KEYS[1], 'installation', 'epoch', 'run')
if meta[1] and meta[1] ~= ARGV[1] then return redis.error_reply('FOREIGN') end
if meta[1] and tonumber(meta[2]) > tonumber(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'installation', ARGV[1], 'epoch', ARGV[2], 'run', ARGV[3],
    'head', 0, 'flushed', 0, 'floor', 0)
return 1
""")
