package tinyelf

import "encoding/binary"

const machine = 183 // EM_AARCH64

var sleep = words(nil,
	0xd10043e1,                                      // sub x1, sp, 16
	move(0, 0), move(2, 1), move(8, 63), supervisor, // read
	0xf100041f,                                       // cmp x0, 1
	0x54000181,                                       // b.ne exit
	move(0, 4), move(1, 0), move(8, 167), supervisor, // prctl: PR_SET_DUMPABLE, 0
	move(0, 0), move(1, 0), move(2, 0), move(3, 0), move(8, 73), supervisor, // ppoll
	0x17fffffa,                          // b to it
	move(0, 0), move(8, 94), supervisor, // exit: exit_group
)

// failure is what calls that fail jump back to: it says so and exits with the errno.
var failure = append(words(nil,
	0x4b0003f3, move(0, 2), // neg w19, w0; mov x0, 2
	0x100000e1, move(2, uint32(len(complaint))), // adr x1, complaint
	move(8, 64), supervisor, // write
	0x2a1303e0, move(8, 94), supervisor, // mov w0, w19; exit_group
), complaint...)

const supervisor = 0xd4000001 // svc 0

func words(code []byte, list ...uint32) []byte {
	for _, w := range list {
		code = binary.LittleEndian.AppendUint32(code, w)
	}
	return code
}

// move is movz xN, v.
func move(register, v uint32) uint32 { return 0xd2800000 | (v&0xffff)<<5 | register }

// moveHigh is movk xN, v, lsl 16.
func moveHigh(register, v uint32) uint32 { return 0xf2a00000 | (v&0xffff)<<5 | register }

// appendCall makes a system call of at most three arguments, and fails if it does.
func appendCall(code []byte, nr uint32, args ...uint32) []byte {
	for i, a := range args {
		code = words(code, move(uint32(i), a), moveHigh(uint32(i), a>>16))
	}
	return appendCheck(words(code, move(8, nr), supervisor))
}

// appendCheck is: tbnz x0, 63, failure.
func appendCheck(code []byte) []byte {
	return words(code, 0xb7f80000|uint32(-len(code)/4)&0x3fff<<5)
}

// appendExecute is chdir(argv[1]); execve(argv[0], argv+2, envp), with the arguments found
// on the stack as execve(2) has left them.
func appendExecute(code []byte) []byte {
	code = words(code, 0xf9400be0, move(8, 49), supervisor) // ldr x0, [sp, 16]; chdir
	code = words(appendCheck(code),
		0xf94007e0,               // ldr x0, [sp, 8]
		0x910063e1,               // add x1, sp, 24
		0xf94003e9,               // ldr x9, [sp]
		0x8b296fe2,               // add x2, sp, x9, uxtx 3
		0x91004042,               // add x2, x2, 16
		move(8, 221), supervisor) // execve
	return words(code, 0x14000000|uint32(-len(code)/4)&0x3ffffff) // b failure
}
