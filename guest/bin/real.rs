//! real: 16-bit real mode, the state in which an x86 processor leaves reset.
//!
//! A flat binary like a boot sector: loaded and entered at 0x0000:0x7c00, and marked by 55 AA in its last two bytes. There
//! is no privilege, no paging, and an address is segment * 16 + offset. It prints, calls a software interrupt through the
//! vector table at address 0, and halts for good: with interrupts off nothing can wake it, so Hostel ends with 0.
//! Rust compiles no 16-bit code, hence assembler. Sources: Intel SDM vol. 3A §21.1 (real-address mode); PC16550D §8.

#![no_std]
#![no_main]

extern crate guest as _; // its panic handler, which Rust asks for and nothing here calls

core::arch::global_asm!(
    r#"
.section .boot.real, "ax"
.code16
.globl real_start
real_start:
    cli
    xor ax, ax
    mov ds, ax                  # segment 0: an offset is the address that the linker knows
    mov ss, ax
    mov sp, 0x7c00              # the stack grows down from where the code begins
    mov si, offset greeting
    call print

    mov word ptr [0x40 * 4], offset handler     # the vector table: four bytes each, offset first, segment second
    mov word ptr [0x40 * 4 + 2], 0
    int 0x40

    mov ax, 0x07c0              # 0x07c0:0x0000 is 0x0000:0x7c00
    mov ds, ax
    mov al, [0]
    cs cmp al, [real_start]     # the same byte by the other name
    mov ax, cs
    mov ds, ax
    jne halt
    mov si, offset same_byte
    call print
halt:
    mov si, offset farewell
    call print
    cli
    hlt
    jmp halt

handler:
    mov si, offset interrupted
    call print
    iret                        # takes back IP, CS and FLAGS

# Prints the string at DS:SI on COM1.
print:
    mov dx, 0x3fd               # line status
    in al, dx
    test al, 0x20               # bit 5: the transmitter is empty
    jz print
    lodsb
    test al, al
    jz printed
    mov dx, 0x3f8
    out dx, al
    jmp print
printed:
    ret

greeting:
    .asciz "Hello from real mode: 16 bits, no privilege, no paging.\n"
interrupted:
    .asciz "INT 0x40 went through the vector table at address 0x100.\n"
same_byte:
    .asciz "0x07c0:0x0000 and 0x0000:0x7c00 are the same byte.\n"
farewell:
    .asciz "Halting with interrupts off.\n"

    .org real_start + 510
    .byte 0x55, 0xaa
.text
"#
);
