#include "textflag.h"

// teu_start is where the kernel enters the keeper. As the init of a container ("/sbin/docker-init -- ...") it
// forks first: the child is the Go program, which executes the command (keeper.Main), and this process does
// what an init does, in two system calls and 8 kB. A Go program could not be the init: while its runtime
// starts, signals to the first process of a PID namespace are lost, or end it; pid_namespaces(7).
//
//	all signals are blocked, also by who executed us   nothing is lost, whenever it comes
//	vfork                                              the command is executed, or its failure told
//	forever: sigwait
//	    SIGCHLD   reap all; the command's end is ours, as a shell tells it: status, or 128 + signal
//	    others    kill(command, signal)
TEXT teu_start(SB),NOSPLIT|NOFRAME,$0
	CMPQ	0(SP), $3 // argc
	JLT	program
	MOVQ	16(SP), AX // argv[1]
	CMPB	0(AX), $'-'
	JNE	program
	CMPB	1(AX), $'-'
	JNE	program
	CMPB	2(AX), $0
	JNE	program

	SUBQ	$16, SP // a signal set, a status
	MOVQ	$-1, 0(SP)
	MOVL	$2, DI // SIG_SETMASK
	MOVQ	SP, SI
	XORL	DX, DX
	MOVL	$8, R10
	MOVL	$14, AX // rt_sigprocmask
	SYSCALL

	MOVL	$0x4011, DI // CLONE_VFORK | SIGCHLD: this process goes on when the command is executed
	XORL	SI, SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	MOVL	$56, AX // clone
	SYSCALL
	TESTQ	AX, AX
	JLE	child // or, where no process can be made, the command without an init
	MOVL	AX, R12

next:
	MOVQ	SP, DI
	XORL	SI, SI
	XORL	DX, DX
	MOVL	$8, R10
	MOVL	$128, AX // rt_sigtimedwait
	SYSCALL
	CMPL	AX, $17 // SIGCHLD
	JEQ	reap
	TESTL	AX, AX
	JLE	next
	MOVL	R12, DI
	MOVL	AX, SI
	MOVL	$62, AX // kill
	SYSCALL
	JMP	next

reap:
	MOVQ	$-1, DI
	LEAQ	8(SP), SI
	MOVL	$1, DX // WNOHANG
	XORL	R10, R10
	MOVL	$61, AX // wait4
	SYSCALL
	TESTL	AX, AX
	JLE	next
	CMPL	AX, R12
	JNE	reap
	MOVL	8(SP), DI
	MOVL	DI, AX
	ANDL	$0x7f, AX
	JEQ	exited
	LEAL	128(AX), DI
	JMP	exit

exited:
	SHRL	$8, DI
	ANDL	$0xff, DI

exit:
	MOVL	$231, AX // exit_group
	SYSCALL

child:
	ADDQ	$16, SP

	JMP	_rt0_amd64_linux(SB)

program:
	JMP	teu_slack(SB)
