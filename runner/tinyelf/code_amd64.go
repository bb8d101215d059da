package tinyelf

import "encoding/binary"

const machine = 62 // EM_X86_64

var sleep = []byte{
	0x48, 0x8d, 0x74, 0x24, 0xf8, // lea rsi, [rsp-8]
	0x31, 0xff, // xor edi, edi
	0xba, 1, 0, 0, 0, // mov edx, 1
	0x31, 0xc0, 0x0f, 0x05, // read
	0x83, 0xf8, 1, // cmp eax, 1
	0x75, 23, // jne exit
	0xbf, 4, 0, 0, 0, 0x31, 0xf6, // mov edi, PR_SET_DUMPABLE; xor esi, esi
	0xb8, 157, 0, 0, 0, 0x0f, 0x05, // prctl
	0xb8, 34, 0, 0, 0, 0x0f, 0x05, // pause
	0xeb, 0xf7, // jmp to it
	0x31, 0xff, // exit: xor edi, edi
	0xb8, 231, 0, 0, 0, 0x0f, 0x05, // exit_group
}

// failure is what calls that fail jump back to: it says so and exits with the errno.
var failure = append([]byte{
	0xf7, 0xd8, // neg eax
	0x41, 0x89, 0xc4, // mov r12d, eax
	0xbf, 2, 0, 0, 0, // mov edi, 2
	0x48, 0x8d, 0x35, 22, 0, 0, 0, // lea rsi, [rip+22]: complaint
	0xba, byte(len(complaint)), 0, 0, 0, // mov edx, len
	0xb8, 1, 0, 0, 0, 0x0f, 0x05, // write
	0x44, 0x89, 0xe7, // mov edi, r12d
	0xb8, 231, 0, 0, 0, 0x0f, 0x05, // exit_group
}, complaint...)

// appendCall makes a system call of at most three arguments, and fails if it does.
func appendCall(code []byte, nr uint32, args ...uint32) []byte {
	for i, a := range args {
		code = binary.LittleEndian.AppendUint32(append(code, [...]byte{0xbf, 0xbe, 0xba}[i]), a) // mov edi/esi/edx, a
	}
	code = binary.LittleEndian.AppendUint32(append(code, 0xb8), nr) // mov eax, nr
	return appendCheck(append(code, 0x0f, 0x05))                    // syscall
}

// appendCheck is: test eax, eax; js failure.
func appendCheck(code []byte) []byte {
	code = append(code, 0x85, 0xc0, 0x0f, 0x88)
	return binary.LittleEndian.AppendUint32(code, uint32(-(len(code) + 4)))
}

// appendExecute is chdir(argv[1]); execve(argv[0], argv+2, envp), with the arguments found
// on the stack as execve(2) has left them.
func appendExecute(code []byte) []byte {
	code = append(code,
		0x48, 0x8b, 0x7c, 0x24, 0x10, // mov rdi, [rsp+16]
		0xb8, 80, 0, 0, 0, 0x0f, 0x05) // chdir
	code = append(appendCheck(code),
		0x48, 0x8b, 0x7c, 0x24, 0x08, // mov rdi, [rsp+8]
		0x48, 0x8d, 0x74, 0x24, 0x18, // lea rsi, [rsp+24]
		0x48, 0x8b, 0x0c, 0x24, // mov rcx, [rsp]
		0x48, 0x8d, 0x54, 0xcc, 0x10, // lea rdx, [rsp+rcx*8+16]
		0xb8, 59, 0, 0, 0, 0x0f, 0x05, // execve
		0xe9) // jmp failure
	return binary.LittleEndian.AppendUint32(code, uint32(-(len(code) + 4)))
}
