# tour.com: asks for what the other programs do not, and ends with the number of answers that were wrong.
#
# as -o tour.o tour.s && ld -Ttext 0x100 --oformat binary -o tour.com tour.o
    .intel_syntax noprefix
    .code16
    .globl _start

# Counts an answer as wrong unless `condition` holds, a letter or two behind a J.
    .macro right condition
    j\condition 9f
    inc byte ptr [wrong]
9:
    .endm

_start:
    # A vector in ES:BX; the upper halves of registers stay.
    mov ebx, 0x12345678
    mov ax, 0x3521
    int 0x21
    cmp ebx, 0x12340042
    right e
    mov ax, es
    cmp ax, 0x70
    right e
    # An interrupt of the program's own.
    mov dx, offset handler
    mov ax, 0x2560
    int 0x21
    int 0x60
    cmp byte ptr [handled], 1
    right e
    # Memory: all is the program's, until it gives some back.
    push ds
    pop es
    mov bx, 1
    mov ah, 0x48
    int 0x21
    right c
    cmp ax, 8
    right e
    mov bx, 0x1000
    mov ah, 0x4a
    int 0x21
    right nc
    mov bx, 16
    mov ah, 0x48
    int 0x21
    right nc
    mov es, ax
    mov word ptr es:[254], 0x1234
    mov ah, 0x49
    int 0x21
    right nc
    mov ah, 0x49
    int 0x21
    right c
    cmp ax, 9
    right e
    # A function of DOS 1 leaves flags as they are, others change CF alone.
    cmp al, al
    stc
    mov ah, 0x19
    int 0x21
    right c
    right e
    mov ah, 0x62
    int 0x21
    right nc
    right e
    mov ax, cs
    cmp ax, bx
    right e
    # What there is not.
    mov ah, 0xee
    int 0x21
    right c
    cmp ax, 1
    right e
    # The date, and the version.
    mov ah, 0x2a
    int 0x21
    cmp cx, 2026
    right ae
    mov ah, 0x30
    int 0x21
    cmp ax, 5
    right e
    # A call through the gate in the prefix, whose return is a far one.
    mov byte ptr [gate + 0], 0x50
    mov [gate + 2], cs
    mov ah, 0x19
    call dword ptr [gate]
    cmp al, 2
    right e
    # A file that is not open is no device.
    mov bx, 99
    mov ax, 0x4400
    int 0x21
    right c
    mov al, [wrong]
    mov ah, 0x4c
    int 0x21

handler:
    mov byte ptr cs:[handled], 1
    iret

handled: .byte 0
wrong: .byte 0
gate: .long 0
