-- What scripts do, with output that is the same each time: numbers, texts, tables, coroutines, files, other programs, errors.
local rounds = tonumber(arg[1])
print(_VERSION, #arg, arg[2], arg[0]:match("[^/]+$"))

local function fib(n) return n < 2 and n or fib(n - 1) + fib(n - 2) end
print(fib(rounds), 10 / 3, 1e300 * 1e10, -7 // 2, -7 % 3, 1 << 62, math.maxinteger + 1 == math.mininteger)
print(string.format("%5.2f|%-8s|%x|%q|%g", math.pi, "left", 255, "a\n\0b", 2 ^ 0.5))

local words = {}
for word in ("the quick brown fox jumps over the lazy dog"):gmatch("%a+") do words[#words + 1] = word end
table.sort(words, function(a, b) return #a < #b or (#a == #b and a < b) end)
print(table.concat(words, ","), (("x=1, y=2"):gsub("(%w)=(%w)", "%2=%1")))
print(string.pack("<i4z", -2, "end"):byte(1, -1))
print(utf8.char(228, 8364, 128512), utf8.len("äöü"))

local producer = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i * i) end return "over" end)
print(producer(), producer(), producer(), producer())

local account = setmetatable({}, { __index = function(_, key) return key .. "?" end, __call = function(_, n) return n + 1 end })
print(account.balance, account(41), select(2, pcall(error, { code = 5 })).code)
print(select(2, pcall(function() local nothing; return nothing.field end)))

local primes, sieve = 0, {}
for n = 2, 20000 do
    if not sieve[n] then
        primes = primes + 1
        for multiple = n * n, 20000, n do sieve[multiple] = true end
    end
end
print(primes, collectgarbage("count") > 0)

print(io.read("l"), io.read("l"), io.read("n"))
for line in io.lines(arg[0]) do io.write(#line, " ") end
print()
print(io.open("/does/not/exist"))
print(select("#", os.getenv("PATH")), os.getenv("NO_SUCH_VARIABLE"), os.time({ year = 2000, month = 1, day = 1, hour = 12 }))

local pipe = io.popen("echo from a shell; exit 3")
print(pipe:read("a"), pipe:close())
print(os.execute("kill -TERM $$"))
print("done")
os.exit(7, true)
