/*
 * The floor of start-up: the least that a C program must do to boot the sample guest `hello` on KVM, and nothing else.
 *
 * Usage: floor ELF. Guest: 128 MiB, one vCPU, entered by PVH. The serial port's bytes go to stdout, one write a line; a write to
 * the ACPI sleep control register ends the process. With -DSPLIT_IRQCHIP the LAPIC is in the kernel (no routes), else there
 * is none. Which of the two is faster depends on the host; `benches/startup` builds and runs both.
 *
 * CPUID is what KVM supports, as a real guest needs it. With -DOWN_CPUID it has just the bits that this guest's way into long
 * mode needs, which saves a call that takes long under a hypervisor: the least of all, told beside the floor.
 * With FLOOR_STAMPS in the environment, stderr gets CLOCK_MONOTONIC in us at the end of each phase: process start, KVM set-up,
 * load, first entry, guest.
 *
 * Left out: every check that only another guest needs. Sources: KVM API; Xen pvh.pandoc; PC16550D 8; ACPI 6.5 4.8.3.7.
 */
#include <elf.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
	RAM_BYTES = 128 << 20,
	START_INFO = 0x6000,		/* below the guest, which is linked at 1 MiB */
	MEMORY_MAP = 0x7000,
	COM1_DATA = 0x3f8,
	SLEEP_CONTROL = 0x600,
	TRANSMITTER_EMPTY = 0x60,	/* line status, the one register the guest reads */
	IOAPIC_PINS = 24,
	CPUID_ENTRIES = 256,		/* KVM_MAX_CPUID_ENTRIES */
	STAMPS = 5,
};

static double stamps[STAMPS];

static void stamp(int phase)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	stamps[phase] = now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static int check(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
	return result;
}

/* Copies the segments; returns the entry point in the PVH note (a 12-byte header, "Xen\0", the address). */
static uint32_t load(const char *path, char *ram)
{
	static char file[64 << 10];
	const Elf64_Ehdr *header = (void *)file;
	const Elf64_Phdr *segment;
	uint32_t entry = 0;

	check(read(check(open(path, O_RDONLY), path), file, sizeof file), path);
	segment = (void *)(file + header->e_phoff);
	for (int i = 0; i < header->e_phnum; i++, segment++) {
		if (segment->p_type == PT_LOAD)
			memcpy(ram + segment->p_paddr, file + segment->p_offset, segment->p_filesz);
		else if (segment->p_type == PT_NOTE)
			entry = *(uint32_t *)(file + segment->p_offset + 16);
	}
	return entry;
}

/* hvm_start_info with a memory map of one entry. */
static void write_start_info(char *ram)
{
	struct {
		uint32_t magic, version, flags, modules;
		uint64_t modlist, cmdline, rsdp, memmap;
		uint32_t memmap_entries, reserved;
	} *info = (void *)(ram + START_INFO);
	struct {
		uint64_t address, size;
		uint32_t type, reserved;
	} *map = (void *)(ram + MEMORY_MAP);

	info->magic = 0x336ec578;
	info->version = 1;
	info->memmap = MEMORY_MAP;
	info->memmap_entries = 1;
	map->size = RAM_BYTES;
	map->type = 1;
}

static void set_cpuid(int kvm, int vcpu)
{
#ifdef OWN_CPUID
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[4];
	} cpuid = {
		{ .nent = 4 },
		{
			{ .function = 0, .eax = 1 },
			{ .function = 1, .edx = 1 << 6 | 1 << 24 | 1 << 25 },	/* PAE, FXSR, SSE */
			{ .function = 0x80000000, .eax = 0x80000001 },
			{ .function = 0x80000001, .edx = 1 << 29 },		/* long mode */
		},
	};

	(void)kvm;
#else
	static struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[CPUID_ENTRIES];
	} cpuid = { .head.nent = CPUID_ENTRIES };

	check(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
#endif
	check(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
}

/* 32-bit protected mode, paging off, flat segments, EBX = start info. */
static void set_registers(int vcpu, uint32_t entry)
{
	struct kvm_segment data = { .limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	struct kvm_segment code = data;
	struct kvm_regs registers = { .rip = entry, .rbx = START_INFO, .rflags = 2 };
	struct kvm_sregs system;

	code.selector = 8;
	code.type = 11;
	check(ioctl(vcpu, KVM_GET_SREGS, &system), "KVM_GET_SREGS");
	system.cs = code;
	system.ds = system.es = system.ss = data;
	system.cr0 = 0x11;
	check(ioctl(vcpu, KVM_SET_SREGS, &system), "KVM_SET_SREGS");
	check(ioctl(vcpu, KVM_SET_REGS, &registers), "KVM_SET_REGS");
}

static void run(int vcpu, struct kvm_run *state)
{
	static char line[128];
	unsigned used = 0;

	for (;;) {
		unsigned char *data;

		check(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
		if (state->exit_reason != KVM_EXIT_IO) {
			fprintf(stderr, "KVM_RUN: exit %u\n", state->exit_reason);
			exit(1);
		}
		data = (unsigned char *)state + state->io.data_offset;
		if (state->io.direction == KVM_EXIT_IO_IN) {
			*data = TRANSMITTER_EMPTY;
		} else if (state->io.port == COM1_DATA) {
			line[used++] = *data;
			if (*data == '\n' || used == sizeof line) {
				check(write(STDOUT_FILENO, line, used), "write");
				used = 0;
			}
		} else if (state->io.port == SLEEP_CONTROL) {
			return;
		}
	}
}

int main(int argc, char **argv)
{
	struct kvm_userspace_memory_region slot = { .memory_size = RAM_BYTES };
	struct kvm_run *state;
	int kvm, vm, vcpu, bytes;
	uint32_t entry;
	char *ram;

	stamp(0);
	if (argc != 2)
		return 2;
	kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
#ifdef SPLIT_IRQCHIP
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { IOAPIC_PINS } };
	check(ioctl(vm, KVM_ENABLE_CAP, &split), "KVM_CAP_SPLIT_IRQCHIP");
#endif
	ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	slot.userspace_addr = (uintptr_t)ram;
	check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	vcpu = check(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	bytes = check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
	state = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (ram == MAP_FAILED || state == MAP_FAILED)
		check(-1, "mmap");
	set_cpuid(kvm, vcpu);
	stamp(1);
	entry = load(argv[1], ram);
	write_start_info(ram);
	stamp(2);
	set_registers(vcpu, entry);
	stamp(3);
	run(vcpu, state);
	stamp(4);
	if (getenv("FLOOR_STAMPS"))
		for (int i = 0; i < STAMPS; i++)
			fprintf(stderr, "%.1f\n", stamps[i]);
	_exit(0);
}
