# hello.com ARGUMENTS: greets, shows its arguments, a line each, and ends with their count.
#
# as -o hello.o hello.s && ld -Ttext 0x100 --oformat binary -o hello.com hello.o
    .intel_syntax noprefix
    .code16
    .globl _start
_start:
    mov dx, offset greeting
    mov ah, 0x09
    int 0x21
    mov si, 0x81                # the command tail, behind its length
    xor bl, bl
next:
    lodsb
    cmp al, ' '
    je next
    cmp al, '\r'
    je done
    inc bl
show:
    mov dl, al
    mov ah, 0x02
    int 0x21
    lodsb
    cmp al, ' '
    ja show                     # a space or the end of the tail ends a word
    dec si
    mov dx, offset line_end
    mov ah, 0x09
    int 0x21
    jmp next
done:
    mov al, bl
    mov ah, 0x4c
    int 0x21

greeting: .ascii "Hello from DOS\r\n$"
line_end: .ascii "\r\n$"
