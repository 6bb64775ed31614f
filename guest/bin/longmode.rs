//! longmode: the way from real mode to 64-bit code, told step by step.
//!
//! PVH enters in the middle, in 32-bit protected mode, so the guest first goes back to where a processor begins. It is
//! linked below 64 KiB, for real mode reaches no further with segment 0. Ends by isa-debug-exit with the value 16, so that
//! the exit status is 33; with 1 (status 3) when a step has not led where it should.
//! Sources: Intel SDM vol. 3A §10.9.2 (back to real mode), §10.9.1 (to protected mode), §10.8.5 (to IA-32e mode), §4.5
//! (4-level paging); Xen pvh.pandoc.

#![no_std]
#![no_main]

extern crate guest as _; // its panic handler, which Rust asks for and nothing here calls

core::arch::global_asm!(
    r#"
# Prints a string, in whatever mode the processor is: each use is assembled for the mode around it.
.macro say text:req
    mov esi, offset text_\@
poll_\@:
    mov dx, 0x3fd               # COM1, line status
    in al, dx
    test al, 0x20               # the transmitter is empty
    jz poll_\@
    lodsb
    test al, al
    jz said_\@
    mov dx, 0x3f8
    out dx, al
    jmp poll_\@
text_\@:
    .asciz "\text"
said_\@:
.endm

.section .boot.longmode, "ax"
.code32
.globl longmode_start
longmode_start:
    .reloc ., R_X86_64_NONE, longmode_note
    say "PVH enters in 32-bit protected mode, paging off.\n"

# To real mode: first 16-bit segments with real mode's limits, for these stay when CR0.PE goes.
    lgdt [longmode_gdt_pointer]
    ljmp 0x20, offset protected_16
.code16
protected_16:
    mov ax, 0x28
    mov ds, ax
    mov ss, ax
    mov eax, cr0
    and al, 0xfe                # PE off
    mov cr0, eax
    ljmp 0, offset real         # loads CS as real mode means it
real:
    xor ax, ax
    mov ds, ax
    mov ss, ax
    say "Real mode: CR0.PE is 0, a segment register is an address divided by 16.\n"

# To protected mode: a GDT, CR0.PE, and a far jump that loads CS from the GDT.
    lgdtd [longmode_gdt_pointer]
    mov eax, cr0
    or al, 1                    # PE on
    mov cr0, eax
    ljmp 0x18, offset protected_32
.code32
protected_32:
    mov ax, 0x10
    mov ds, ax
    mov ss, ax
    say "Protected mode: CR0.PE is 1, a segment register names a descriptor, 4 GiB in reach.\n"

# To paging: four levels of tables of which three are needed for a page of 2 MiB, PAE, EFER.LME, CR0.PG.
    mov dword ptr [table_4], offset table_3 + 3 # entry 0 covers 512 GiB: present, writable
    mov dword ptr [table_3], offset table_2 + 3 # 1 GiB
    mov dword ptr [table_2], 0x83               # 2 MiB at address 0: present, writable, a page and not a table
    mov eax, 0x20                               # CR4.PAE: entries of 64 bits
    mov cr4, eax
    mov eax, offset table_4
    mov cr3, eax
    mov ecx, 0xc0000080                         # EFER.LME: paging shall be long mode's
    mov eax, 0x100
    xor edx, edx
    wrmsr
    mov eax, cr0
    or eax, 0x80000000                          # PG on
    mov cr0, eax
    say "Paging: CR0.PG is 1, every address goes through the tables at CR3.\n"
    mov ecx, 0xc0000080
    rdmsr
    test eax, 0x400                             # EFER.LMA, set by the processor
    jz not_in_long_mode
    say "Compatibility mode: EFER.LMA is 1, but the code segment is still a 32-bit one.\n"

# To 64-bit code: a far jump to a segment with the L bit.
    ljmp 0x08, offset long_mode
.code64
long_mode:
    mov rax, -1
    shr rax, 32                                 # leaves 32 ones, and only where registers have 64 bits
    inc rax
    jz not_in_long_mode
    say "64-bit mode: the code segment is a 64-bit one, and so are the registers.\n"
    mov eax, 16
    jmp leave
not_in_long_mode:                               # the same bytes in 32-bit and 64-bit code
    mov eax, 1
leave:
    mov dx, 0xf4
    out dx, eax
    hlt

.section .note.pvh, "a", @progbits
.balign 4
longmode_note:
    .long 4, 4, 18              # length of the name, length of the value, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long longmode_start

.section .data.longmode, "aw"
.balign 8
longmode_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 0x08 code, 64-bit
    .quad 0x00cf93000000ffff    # 0x10 data, flat 4 GiB
    .quad 0x00cf9b000000ffff    # 0x18 code, 32-bit, flat 4 GiB
    .quad 0x00009b000000ffff    # 0x20 code, 16-bit, 64 KiB
    .quad 0x000093000000ffff    # 0x28 data, 16-bit, 64 KiB
longmode_gdt_pointer:
    .word longmode_gdt_pointer - longmode_gdt - 1
    .quad longmode_gdt

.section .bss.longmode, "aw", @nobits
.balign 4096
table_4: .zero 4096
table_3: .zero 4096
table_2: .zero 4096
.text
"#
);
