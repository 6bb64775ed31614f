# find.com WORD: of the lines of standard input, shows those with WORD in them; status 0 if there was one, else 1.
#
# as -o find.o find.s && ld -Ttext 0x100 --oformat binary -o find.com find.o
    .intel_syntax noprefix
    .code16
    .globl _start
    .equ LINE_MAX, 250
_start:
    cld
    mov si, 0x82                # the command tail, behind its length and a space
    mov [word], si
1:  lodsb
    cmp al, '\r'
    jne 1b
    dec si
    sub si, [word]
    mov [word_size], si
next_line:
    mov di, offset line
more:
    call read
    jc last
    stosb
    cmp al, '\n'
    je 1f
    cmp di, offset line + LINE_MAX
    jb more
1:  call filter
    jmp next_line
last:
    call filter
    mov al, [missing]
    mov ah, 0x4c
    int 0x21

# The next byte of standard input in AL; CF: there is none.
read:
    mov si, [position]
    cmp si, [filled]
    jb 1f
    xor bx, bx
    mov cx, 512
    mov dx, offset input
    mov ah, 0x3f
    int 0x21
    jc 2f
    test ax, ax
    stc
    jz 2f
    mov si, dx
    add ax, si
    mov [filled], ax
1:  lodsb
    mov [position], si
    clc
2:  ret

# Shows what lies from `line` to DI if the word is in it.
filter:
    mov bx, offset line
1:  mov ax, di
    sub ax, bx
    mov cx, [word_size]
    cmp ax, cx
    jb 2f                       # less is left than the word has
    push di
    mov di, bx
    mov si, [word]
    repe cmpsb
    pop di
    je 3f
    inc bx
    jmp 1b
3:  mov byte ptr [missing], 0
    mov dx, offset line
    mov cx, di
    sub cx, dx
    mov bx, 1
    mov ah, 0x40
    int 0x21
2:  ret

word: .word 0
word_size: .word 0
position: .word 0
filled: .word 0
missing: .byte 1
    .equ line, . + 0
    .equ input, line + 256
