# Patterns of a linker script for the functions that ran, for scripts/start-order: of the C library's objects, the program's functions and
# the addresses that were stepped through, in this order, the last two sorted.

# How a linker script calls a function, in each build alike: cold ones have their own sections.
function pattern(name) {
    if (name !~ /^(_ZN|_R)/) return name in object ? "*libc.a:" object[name] "(.text .text.*)" : ""
    sub(/17h[0-9a-f]+E.*/, "17h*", name)
    gsub(/Cs[0-9A-Za-z]+_/, "Cs*_", name)
    sub(/\.(llvm\.)?[0-9]+$/, "*", name)
    return "*(.text*." name ")"
}
function number(hexadecimal, digit, value) {
    for (digit = 1; digit <= length(hexadecimal); digit++)
        value = value * 16 + index("0123456789abcdef", substr(hexadecimal, digit, 1)) - 1
    return value
}
BEGIN { count = at = 0 }
FILENAME ~ /objects/ { if (!($2 in object)) object[$2] = $1; next }
FILENAME ~ /functions/ {
    address[count] = $1; size[count] = number($2); called[count] = pattern($3)
    all[called[count]] += size[count++]
    next
}
# Steps and functions come by address.
{
    while (at + 1 < count && address[at + 1] "" <= $1 "") at++ # as text: 24e1310 would be a number
    if (!run[at]++) ran[called[at]] += size[at]
}
# A pattern that brings much that does not run, because many functions share a name, goes behind the others.
END { for (name in ran) if (name) print (ran[name] * 3 < all[name]) "        " name }
