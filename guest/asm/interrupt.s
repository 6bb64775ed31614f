# Where exceptions and interrupts enter: one stub a vector, all of the same size, so that the IDT is filled by counting.
#
# A stub makes the stack the same for all vectors (a zero where the processor pushes no error code), names its vector and
# joins the others. Rust then sees the stack as `interrupt::Frame`.
# Source: Intel SDM vol. 3A §6.14.2 (64-bit stack frame), §6.3.1 and table 6-1 (which exceptions have an error code).

.section .text.interrupt_stubs, "ax"
.code64
.globl interrupt_stubs, interrupt_common, interrupt_return
.balign 16
interrupt_stubs:
    .set vector, 0
    .rept 64
    .balign 16
    .if ((1 << vector) & 0x60227d00) == 0       # error codes: 8, 10 to 14, 17, 21, 29, 30
    .byte 0x6a, 0               # push 0
    .endif
    .byte 0x6a, vector          # push vector
    jmp interrupt_common
    .set vector, vector + 1
    .endr

interrupt_common:
    push_registers
    mov rdi, rsp                # the frame; 22 words lie on a stack that the processor aligned to 16
    cld
    call guest_interrupt
interrupt_return:               # RSP: a frame
    pop_registers
    add rsp, 16                 # vector and error code
    iretq
.text
