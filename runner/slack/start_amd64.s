#include "textflag.h"

// teu_slack is where the kernel enters a program that is linked with `-E teu_slack`. It notes the timer
// slack and makes it one millisecond, unless it is that already. Real-time threads have none, and keep it.
TEXT teu_slack(SB),NOSPLIT|NOFRAME,$0
	MOVL	$30, DI // PR_GET_TIMERSLACK
	MOVL	$157, AX // prctl
	SYSCALL
	CMPQ	AX, $0
	JLE	program
	CMPQ	AX, $1000000
	JGE	program
	MOVQ	AX, ·usual(SB)
	MOVL	$29, DI // PR_SET_TIMERSLACK
	MOVL	$1000000, SI
	MOVL	$157, AX
	SYSCALL

program:
	JMP	_rt0_amd64_linux(SB)
