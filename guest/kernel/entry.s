# The way from ring 3 into the kernel, and back.
#
# What was interrupted is pushed straight into the thread that was: TSS.RSP0 is the end of its `Context`. Then the processor's own stack
# is taken, which is empty whenever ring 3 runs: a thread has no stack in the kernel.
# Sources: Intel SDM vol. 3A §6.14.2 (64-bit stack frame), §6.3.1 and table 6-1 (error codes), vol. 2 INT n, IRET.

.set CONTEXT_BYTES, 176         # of `Context`; behind it stands the top of the processor's stack

.section .text.kernel_trap_stubs, "ax"
.code64
.globl kernel_trap_stubs
.balign 16
kernel_trap_stubs:
    .set vector, 0
    .rept 64
    .balign 16
    .if ((1 << vector) & 0x60227d00) == 0       # error codes: 8, 10 to 14, 17, 21, 29, 30
    .byte 0x6a, 0               # push 0
    .endif
    .byte 0x6a, vector          # push vector
    .if vector == 2 || vector == 8 || vector == 18
    jmp kernel_trap_on_other_stack
    .else
    jmp kernel_trap
    .endif
    .set vector, vector + 1
    .endr

kernel_trap:
    push_registers
    mov rdi, rsp
    cld
    test byte ptr [rsp + 18 * 8], 3             # CS: from ring 3?
    jz kernel_trap_from_ring_0
    mov rsp, [rsp + CONTEXT_BYTES]
    call kernel_interrupted     # does not return

kernel_trap_on_other_stack:     # NMI, #DF, #MC: nobody expects them
    push_registers
    mov rdi, rsp
    cld
kernel_trap_from_ring_0:        # a processor without work, or an instruction that the shell tries
    call guest_interrupt
    pop_registers
    add rsp, 16                 # vector and error code
    iretq

.globl kernel_system_call
kernel_system_call:             # INT 0x80
    sub rsp, 16                 # no error code, no vector
    push_registers
    mov rdi, rsp
    cld
    mov rsp, [rsp + CONTEXT_BYTES]
    call kernel_called          # does not return

.globl kernel_resume
kernel_resume:                  # RDI: the context to go on with
    mov rsp, rdi
    pop_registers
    add rsp, 16
    iretq

# The shell is the one part of the kernel that waits in the middle of what it does, so it has a stack.

.globl kernel_leave_shell, kernel_enter_shell
kernel_leave_shell:             # RDI: where its stack pointer is kept, RSI: the processor's stack, RDX: where to go on
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, rsi
    call rdx                    # does not return

kernel_enter_shell:             # RDI: its stack pointer
    mov rsp, rdi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

.text
