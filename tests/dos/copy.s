# copy.com FROM TO: copies a file. What fails is said, and the error's number is the status.
#
# as -o copy.o copy.s && ld -Ttext 0x100 --oformat binary -o copy.com copy.o
    .intel_syntax noprefix
    .code16
    .globl _start
_start:
    mov si, 0x81
    call word_of
    mov [from], di
    call word_of
    mov [to], di

    mov dx, [from]
    mov ax, 0x3d00              # to read
    int 0x21
    mov dx, offset cannot_open
    jc failed
    mov [source], ax
    mov dx, [to]
    xor cx, cx
    mov ah, 0x3c
    int 0x21
    mov dx, offset cannot_make
    jc failed
    mov [target], ax
more:
    mov bx, [source]
    mov dx, offset buffer
    mov cx, 4096
    mov ah, 0x3f
    int 0x21
    mov dx, offset cannot_read
    jc failed
    test ax, ax
    jz finished
    mov cx, ax
    mov bx, [target]
    mov dx, offset buffer
    mov ah, 0x40
    int 0x21
    mov dx, offset cannot_write
    jc failed
    cmp ax, cx
    je more
    mov al, 39                  # the disk is full
    jmp failed
finished:
    mov bx, [target]
    mov ah, 0x3e
    int 0x21
    mov bx, [source]
    mov ah, 0x3e
    int 0x21
    mov dx, offset copied
    mov ah, 0x09
    int 0x21
    int 0x20

# Says the text at DX and ends with status AL.
failed:
    mov bl, al
    mov ah, 0x09
    int 0x21
    mov al, bl
    mov ah, 0x4c
    int 0x21

# The next word from SI on: at DI, with a zero behind it.
word_of:
    lodsb
    cmp al, ' '
    je word_of
    lea di, [si - 1]
1:  lodsb
    cmp al, ' '
    ja 1b
    mov byte ptr [si - 1], 0
    ret

cannot_open: .ascii "cannot open\r\n$"
cannot_make: .ascii "cannot make\r\n$"
cannot_read: .ascii "cannot read\r\n$"
cannot_write: .ascii "cannot write\r\n$"
copied: .ascii "copied\r\n$"
from: .word 0
to: .word 0
source: .word 0
target: .word 0
    .equ buffer, . + 0
