#include "textflag.h"

// teu_start is explained in start_amd64.s.
TEXT teu_start(SB),NOSPLIT|NOFRAME,$0
	MOVD	0(RSP), R0 // argc
	CMP	$3, R0
	BLT	program
	MOVD	16(RSP), R0 // argv[1]
	MOVBU	0(R0), R1
	CMP	$'-', R1
	BNE	program
	MOVBU	1(R0), R1
	CMP	$'-', R1
	BNE	program
	MOVBU	2(R0), R1
	CBNZ	R1, program

	SUB	$16, RSP // a signal set, a status
	MOVD	$-1, R0
	MOVD	R0, 0(RSP)
	MOVD	$2, R0 // SIG_SETMASK
	MOVD	RSP, R1
	MOVD	$0, R2
	MOVD	$8, R3
	MOVD	$135, R8 // rt_sigprocmask
	SVC

	MOVD	$0x4011, R0 // CLONE_VFORK | SIGCHLD
	MOVD	$0, R1
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$0, R4
	MOVD	$220, R8 // clone
	SVC
	CMP	$0, R0
	BLE	child
	MOVD	R0, R19

next:
	MOVD	RSP, R0
	MOVD	$0, R1
	MOVD	$0, R2
	MOVD	$8, R3
	MOVD	$137, R8 // rt_sigtimedwait
	SVC
	CMP	$17, R0 // SIGCHLD
	BEQ	reap
	CMP	$0, R0
	BLE	next
	MOVD	R0, R1
	MOVD	R19, R0
	MOVD	$129, R8 // kill
	SVC
	B	next

reap:
	MOVD	$-1, R0
	ADD	$8, RSP, R1
	MOVD	$1, R2 // WNOHANG
	MOVD	$0, R3
	MOVD	$260, R8 // wait4
	SVC
	CMP	$0, R0
	BLE	next
	CMP	R0, R19
	BNE	reap
	MOVWU	8(RSP), R1
	AND	$0x7f, R1, R0
	CBZ	R0, exited
	ADD	$128, R0
	B	exit

exited:
	LSR	$8, R1, R0
	AND	$0xff, R0

exit:
	MOVD	$94, R8 // exit_group
	SVC

child:
	ADD	$16, RSP

	JMP	_rt0_arm64_linux(SB)

program:
	JMP	teu_slack(SB)
