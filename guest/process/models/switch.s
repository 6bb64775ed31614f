# From one thread's stack to another's, in ring 3, without the kernel.
#
# A function call already lost whatever the calling convention lets it lose, so only the registers that a callee must keep are
# saved, and the stack pointer. Left out: the control words of x87 and MXCSR, which a callee must keep too; nothing here sets them.
# Source: System V ABI AMD64 §3.2.1 (registers), §3.2.2 (the stack is a multiple of 16 at a call).

.section .text.thread_switch, "ax"
.code64
.globl thread_switch, thread_begin
.balign 64
thread_switch:                  # RDI: who leaves, RSI: who goes on; each begins with its stack pointer
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, [rsi]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    mov rax, rdi                # who left, as the one who goes on is told
    ret

thread_begin:                   # where the first switch to a thread returns to; `context.rs` has laid out what it popped
    mov rdi, rax
    mov rsi, rbx                # the thread
    call r12                    # what it runs, which does not return
    ud2
.text
