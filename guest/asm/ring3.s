# Into ring 3, and back.
#
# IRET is the way down: it loads CS, RIP, flags, SS and RSP from the stack. The way up is an exception, whose handler
# (`guest/lib/ring3.rs`) goes on at `ring3_back` with the stack that the caller had. Not a software interrupt: a KVM that runs
# ring 3 natively and interprets the rest does not emulate INT n.
# Source: Intel SDM vol. 3A §6.14.2 (64-bit stack frame), §6.14.4 (stack switching), vol. 2 IRET.

.section .text.ring3, "ax"
.code64
.globl ring3_enter, ring3_leave, ring3_back, ring3_caller
ring3_enter:                    # RDI: what to run, RSI: the top of its stack, RDX: its argument
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + ring3_caller], rsp
    lea rax, [rip + ring3_leave]
    sub rsi, 8
    mov [rsi], rax              # where the function returns to
    push 0x2b                   # SS: data of ring 3
    push rsi
    push 2                      # flags: interrupts off
    push 0x33                   # CS: code of ring 3
    push rdi
    mov rdi, rdx
    iretq
ring3_leave:
    ud2
ring3_back:
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret


# SYSCALL comes here: it changes the ring, but no stack. RCX: where it returns to, R11: its flags. What it finds on the stack of ring 0
# is a frame, as that of an interrupt with a vector of its own.
.section .text.ring3_system_call, "ax"
.globl ring3_system_call, ring3_kernel_stack
ring3_system_call:
    mov [rip + ring3_stack], rsp
    mov rsp, [rip + ring3_kernel_stack]
    push 0x2b
    push [rip + ring3_stack]
    push r11
    push 0x33
    push rcx
    push 0                      # no error code
    push 62
    jmp interrupt_common

# To where a frame says. RDI: the frame.
.section .text.ring3_resume, "ax"
.globl ring3_resume
ring3_resume:
    mov rsp, rdi
    jmp interrupt_return

.section .bss.ring3_system_call, "aw", @nobits
.balign 8
ring3_stack:
    .zero 8
ring3_kernel_stack:
    .zero 8

.section .bss.ring3, "aw", @nobits
.balign 8
ring3_caller:
    .zero 8
.text
