# Where a further processor begins: a start-up IPI sends it to the first byte of a page below 1 MiB, in real mode.
#
# `smp::start` copies the code between the two labels to such a page, gives `processor_stack` a stack and sends the IPI.
# Source: Intel SDM vol. 3A §9.4.4.2 (typical AP initialization sequence).

.section .text.processor_trampoline, "ax"
.code16
.globl processor_trampoline, processor_trampoline_end
processor_trampoline:
    cli
    mov ax, cs                  # CS = page << 8, IP = 0: offsets within this code are offsets within the segment
    mov ds, ax
    lgdtd [trampoline_gdt_pointer_offset]
    mov eax, cr0
    or al, 1                    # CR0.PE
    mov cr0, eax
    .byte 0x66, 0xea            # a far jump from 16-bit code with a 32-bit offset, to the code that was not copied
    .long processor_protected
    .word 0x18
trampoline_gdt_pointer:
    .word 39                    # as gdt_pointer, whose own address real mode cannot reach
    .long gdt
processor_trampoline_end:
    .set trampoline_gdt_pointer_offset, trampoline_gdt_pointer - processor_trampoline

.section .text.processor_protected, "ax"
.code32
processor_protected:
    mov ax, 0x10
    mov ds, ax
    mov ss, ax
    mov esp, [processor_stack]
    mov ebx, offset processor_main
    jmp enter_long_mode_with_stack
.text
