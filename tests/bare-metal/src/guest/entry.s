# From the machine's first instruction to Rust, and what interrupts it.
#
# The cases run in ring 3 with the interrupt flag clear. So they run as natively as can be on any KVM:
# a nested one may interpret ring 0 instruction by instruction, and lack many. What needs ring 0 goes
# through the gate, which is UD2: it traps everywhere, and needs no descriptor of its own.
#
# Everything in this section lies in the 64 KiB from LOW on, so that descriptors can be made by the
# assembler.

.equ LOW, 0x100000
.equ SERIAL, 0x3f8
.equ KERNEL_CODE, 0x08
.equ KERNEL_DATA, 0x10
.equ USER_DATA, 0x1b
.equ USER_CODE, 0x23
.equ TASK, 0x28
# CR0: protection, monitor coprocessor, extension type, numeric error, write protection, paging.
.equ START_CR0, 0x80010033
# CR4: PAE, OSFXSR, OSXMMEXCPT.
.equ START_CR4, 0x620
.equ EFER, 0xc0000080
.equ EFER_LONG_MODE, 0x100
# End of interrupt, of the local APIC.
.equ APIC_EOI, 0xfee000b0
.equ GATE, 6

# Xen's ELF note 18, PHYS32_ENTRY: the PVH entry.
.pushsection .note.pvh, "a", @note
.balign 4
.long 4, 4, 18
.asciz "Xen"
.long start32
.popsection

.pushsection .low, "awx", @progbits
low:

# The PVH entry: 32-bit, EBX is the address of hvm_start_info.
.code32
.global start32
start32:
    mov al, 0x21
    mov dx, SERIAL
    out dx, al
    cli
    mov eax, offset page_map
    mov cr3, eax
    mov eax, START_CR4
    mov cr4, eax
    mov ecx, EFER
    rdmsr
    or eax, EFER_LONG_MODE
    wrmsr
    mov eax, START_CR0
    mov cr0, eax
    lgdt [descriptors_pointer]
    mov edi, 1
    mov esi, ebx
    # jmp KERNEL_CODE:prepare
    .byte 0xea
    .long prepare
    .word KERNEL_CODE

# The 64-bit entry of Linux's boot protocol: RSI is the address of boot_params.
.code64
.global start64
start64:
    mov al, 0x21
    mov dx, SERIAL
    out dx, al
    cli
    mov eax, offset page_map
    mov cr3, rax
    mov eax, START_CR4
    mov cr4, rax
    mov eax, START_CR0
    mov cr0, rax
    lgdt [descriptors_pointer]
    mov rsp, offset kernel_stack
    push KERNEL_CODE
    push offset prepare
    mov edi, 2
    retfq

# RDI and RSI are the arguments of guest_main.
prepare:
    mov eax, KERNEL_DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov rsp, offset kernel_stack
    lidt [interrupts_pointer]
    mov eax, TASK
    ltr ax
    mov rcx, offset user_stack - 8
    mov rax, offset guest_main
    jmp to_user

# To ring 3 at RAX with the stack at RCX, interrupts off.
to_user:
    push USER_DATA
    push rcx
    push 2
    push USER_CODE
    push rax
    iretq

# What a processor that gets INIT and SIPI runs, copied below 1 MiB: real mode, CS its segment. It
# counts itself, and halts. Written without the section's addresses.
.code16
.global second_start
.global second_end
second_start:
    mov ax, cs
    mov ds, ax
    lock inc word ptr [0x100]
    cli
1:  hlt
    jmp 1b
second_end:
.code64

.balign 16
descriptors:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
    .word 103, task - low
    .byte LOW >> 16, 0x89, 0, 0
    .quad 0
descriptors_end:
descriptors_pointer:
    .word descriptors_end - descriptors - 1
    .quad descriptors
interrupts_pointer:
    .word 256 * 16 - 1
    .quad interrupts
nothing_pointer:
    .word 0
    .quad 0
.balign 16
task:
    .long 0
    .quad kernel_stack
    .fill 90, 1, 0
    .word 104

# One stub of 16 bytes for each vector. Exceptions 8, 10 to 14, 17 and 21 bring an error code.
.balign 16
stubs:
.set n, 0
.rept 256
    .balign 16
    .if n == GATE
        jmp gate
    .elseif n >= 32
        push n
        jmp interrupted
    .else
        .ifne (n-8)*(n-10)*(n-11)*(n-12)*(n-13)*(n-14)*(n-17)*(n-21)
        push 0
        .endif
        push n
        jmp trap
    .endif
    .set n, n + 1
.endr

# ECX says what is wanted: see gate.rs.
.balign 16
gate:
    add qword ptr [rsp], 2
    jmp [rcx * 8 + calls]
.balign 8
calls:
    .quad wait, out8, out16, out32, in8, in16, in32, outs8, triple, out_cpuid
wait:
    sti
    hlt
    cli
    iretq
out8:
    out dx, al
    iretq
out16:
    out dx, ax
    iretq
out32:
    out dx, eax
    iretq
in8:
    in al, dx
    iretq
in16:
    in ax, dx
    iretq
in32:
    in eax, dx
    iretq
# RSI, RDI bytes of it.
outs8:
    mov rcx, rdi
    rep outsb
    iretq
# An interrupt without a table of them.
triple:
    lidt [nothing_pointer]
    ud2
# The leaf in EAX, the subleaf in EDX.
out_cpuid:
    mov ecx, edx
    push rbx
    cpuid
    mov esi, ebx
    pop rbx
    iretq

# Counts the vector, and ends the interrupt.
interrupted:
    push rax
    mov rax, [rsp + 8]
    inc dword ptr [rax * 4 + interrupt_counts]
    mov eax, APIC_EOI
    mov dword ptr [rax], 0
    pop rax
    add rsp, 8
    iretq

# guest_trapped(vector, error code, RIP, CR2)
trap:
    pop rdi
    pop rsi
    mov rdx, [rsp]
    mov rcx, cr2
    mov r8, rcx
    mov rsp, offset kernel_stack
    mov rcx, offset trap_stack - 8
    mov rax, offset guest_trapped
    push USER_DATA
    push rcx
    push 2
    push USER_CODE
    push rax
    mov rcx, r8
    iretq

.balign 4096
interrupts:
.set n, 0
.rept 256
    .word stubs - low + n * 16, KERNEL_CODE
    # An interrupt gate, of ring 3 if it is ours.
    .if n == GATE
    .byte 0, 0xee
    .else
    .byte 0, 0x8e
    .endif
    .word LOW >> 16
    .quad 0
    .set n, n + 1
.endr

# The first 8 GiB where they are, writable and ring 3's, in pages of 2 MiB.
.balign 4096
page_map:
    .quad page_directories_pointer + 7
    .fill 511, 8, 0
page_directories_pointer:
.set n, 0
.rept 8
    .quad page_directories + n * 4096 + 7
    .set n, n + 1
.endr
    .fill 504, 8, 0
.popsection

.pushsection .data, "aw", @progbits
.balign 4096
page_directories:
.set n, 0
.rept 4096
    .quad n * 0x200000 + 0x87
    .set n, n + 1
.endr
.popsection

.pushsection .bss, "aw", @nobits
.balign 16
.skip 16384
kernel_stack:
.skip 131072
user_stack:
.skip 32768
trap_stack:
.global interrupt_counts
interrupt_counts:
.skip 1024
.popsection
