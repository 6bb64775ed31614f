# The entry points of a guest, one a boot protocol, and the way from each into 64-bit Rust.
#
# The linker is told which one an image has (`-e`), and drops the others.
# Every path ends in `start_rust`: long mode, the first GiB mapped one to one, our own GDT and stack, interrupts off. It
# calls `guest_main` with the address of what the boot protocol hands over (0: nothing).
#
# Sources: Xen pvh.pandoc "Booting"; Multiboot 0.6.96 §3.2 "Machine state"; Linux boot.rst "64-bit Boot Protocol";
# Intel SDM vol. 3A §10.8.5 (IA-32e mode start), §4.5 (4-level paging), §3.4.5 (segment descriptors).

# ---- PVH and Multiboot: 32-bit protected mode, paging off, flat segments, EBX = hvm_start_info or Multiboot information.

.section .boot.pvh, "ax"
.code32
.globl pvh_start
pvh_start:
    .reloc ., R_X86_64_NONE, pvh_note           # where this entry goes, the note goes
    mov edi, ebx                # the first argument of the System V calling convention
    jmp enter_long_mode

.section .note.pvh, "a", @progbits
.balign 4
pvh_note:
    .long 4, 4, 18              # length of the name, length of the value, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start

.section .boot.multiboot, "ax"
.globl multiboot_start
multiboot_start:
    .reloc ., R_X86_64_NONE, multiboot_header
    mov edi, ebx
    jmp enter_long_mode

.section .multiboot, "a", @progbits
.balign 4
multiboot_header:
    .long 0x1badb002            # magic
    .long 1 << 1                # flags: the memory map, please
    .long -(0x1badb002 + (1 << 1))              # checksum: the three add up to zero

# ---- 64-bit Linux entry: long mode, RSI = boot_params. Whose tables and GDT these are is unknown: bring our own.

.section .boot.linux64, "ax"
.code64
.globl linux64_start
linux64_start:
    mov rdi, rsi
    jmp take_over_long_mode

# ---- Flat 64-bit binary: as above, RDI = hvm_start_info. First in its image, for the entry is the load address.

.section .boot.flat64, "ax"
.globl flat64_start
flat64_start:
    jmp take_over_long_mode

# ---- Flat 16-bit binary: real mode at 0x0000:0x7c00, in one boot sector (the section is first in its image).

.section .boot.flat16, "ax"
.code16
.globl flat16_start
flat16_start:
    cli
    xor eax, eax
    mov ds, ax                  # addresses below are the linker's, so segment 0
    lgdtd [gdt_pointer]
    inc ax
    mov cr0, eax                # CR0.PE: protected mode from the next far jump on
    ljmp 0x18, offset protected
.code32
protected:
    mov ax, 0x10
    mov ds, ax                  # flat: reaches beyond 64 KiB
    xor edi, edi                # nothing is handed over
    jmp enter_long_mode
    .org flat16_start + 510
    .byte 0x55, 0xaa            # the boot sector's signature

# ---- 32-bit protected mode, paging off -> long mode (Intel SDM vol. 3A §10.8.5).
# The second entry is for processors that have a stack (ESP) and a function to call (EBX) of their own.

.section .text.enter_long_mode, "ax"
.code32
enter_long_mode:
    mov esp, offset stack_top
    mov ebx, offset guest_main
enter_long_mode_with_stack:
    mov eax, 0x620              # CR4: PAE, which long mode demands; OSFXSR and OSXMMEXCPT, lest SSE faults
    mov cr4, eax
    mov eax, offset page_map    # CR3: the root of the page tables
    mov cr3, eax
    mov ecx, 0xc0000080         # EFER.LME: the next paging will be long mode's
    mov eax, 0x100
    xor edx, edx
    wrmsr
    mov eax, 0x80010033         # CR0: PG, WP, NE, ET, MP, PE
    mov cr0, eax
    lgdt [gdt_pointer]
    ljmp 0x08, offset start_rust

# ---- Long mode with the loader's tables -> long mode with ours.

.section .text.take_over_long_mode, "ax"
.code64
take_over_long_mode:
    mov eax, 0x620
    mov cr4, rax
    mov eax, offset page_map
    mov cr3, rax
    lgdt [gdt_pointer]
    mov esp, offset stack_top
    mov ebx, offset guest_main
    push 0x08
    push offset start_rust
    retfq                       # the only far jump to an absolute address that 64-bit code has

.section .text.start_rust, "ax"
start_rust:
    mov eax, 0x10
    mov ss, eax                 # an interrupt saves SS and IRET loads it again: it must name our GDT
    mov ds, eax
    mov es, eax
    mov esp, esp                # the upper halves are undefined after the switch (Intel SDM vol. 1 §3.4.1.1)
    mov ebx, ebx
    mov edi, edi
    call rbx
    ud2                         # the function does not return

# ---- Tables. Filled by the assembler, so that start-up has nothing to compute.

.section .data.gdt, "aw"
.balign 8
.globl gdt_pointer
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 0x08 code, 64-bit
    .quad 0x00cf93000000ffff    # 0x10 data, flat 4 GiB
    .quad 0x00cf9b000000ffff    # 0x18 code, 32-bit, flat 4 GiB
    .quad 0x008f9b000000ffff    # 0x20 code, 16-bit, flat 4 GiB
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt

.section .data.page_tables, "aw"
.balign 4096
.globl page_map, page_directory_pointers, page_directory
page_map:                       # PML4: entry 0 covers the first 512 GiB
    .quad page_directory_pointers + 3           # present, writable
    .zero 4096 - 8
page_directory_pointers:        # one entry a GiB; `paging::map_gib` adds more
    .quad page_directory + 3
    .zero 4096 - 8
page_directory:                 # one entry 2 MiB
    .set address, 0
    .rept 512
    .quad address + 0x83        # present, writable, 2 MiB page
    .set address, address + 0x200000
    .endr

.section .bss.stack, "aw", @nobits
.balign 16
    .zero 16384
stack_top:
.text
