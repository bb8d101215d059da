#include "textflag.h"

// teu_slack is explained in start_amd64.s.
TEXT teu_slack(SB),NOSPLIT|NOFRAME,$0
	MOVD	$30, R0 // PR_GET_TIMERSLACK
	MOVD	$167, R8 // prctl
	SVC
	CMP	$0, R0
	BLE	program
	MOVD	$1000000, R1
	CMP	R1, R0
	BGE	program
	MOVD	R0, ·usual(SB)
	MOVD	$29, R0 // PR_SET_TIMERSLACK
	MOVD	$167, R8
	SVC

program:
	JMP	_rt0_arm64_linux(SB)
