package launch

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// signature is the name of an operation and how its arguments are printed: a list of fd,
// int, oct, hex, str, strs, buf, how, attr, errno or the name of a flag set.
type signature struct{ name, args string }

func opName(nr uint32) string { return signatureOf(nr).name }

// signatureOf covers what programs use; anything else prints as a number. A switch and
// not a table: it costs a process that starts nothing.
func signatureOf(nr uint32) signature {
	switch nr {
	case opStore:
		return signature{"store", "hex,fd,int"}
	case opCheck:
		return signature{"check", "hex,int,hex,hex,errno"}
	case opLoad:
		return signature{"load", "hex,int,hex"}
	case opTarget:
		return signature{"target", "fd,str,oct"}
	case opSend:
		return signature{"send", "int,fd,int"}
	case opFork:
		return signature{"fork", "clone"}
	case opBorn:
		return signature{"born_in_cgroup", ""}
	case opSignals:
		return signature{"default_signals", ""}
	case opExec:
		return signature{"execve", "strs,strs,strs"}
	case opDiffer:
		return signature{"differ", "hex,hex,int,errno"}
	case opFail:
		return signature{"fail", "errno"}
	case opUserNS:
		return signature{"user_namespace", "str,int,str,int,int"}
	case opRemount:
		return signature{"remount", "fd,mount,mount,mount"}
	}
	if s, ok := fileSignature(nr); ok {
		return s
	}
	if s, ok := processSignature(nr); ok {
		return s
	}
	return signature{"syscall_" + strconv.Itoa(int(nr)), "hex,hex,hex,hex,hex,hex"}
}

func fileSignature(nr uint32) (signature, bool) {
	switch nr {
	case unix.SYS_OPENAT:
		return signature{"openat", "fd,str,open,oct"}, true
	case unix.SYS_OPENAT2:
		return signature{"openat2", "fd,str,how,int"}, true
	case unix.SYS_CLOSE:
		return signature{"close", "fd"}, true
	case unix.SYS_CLOSE_RANGE:
		return signature{"close_range", "fd,hex,hex"}, true
	case unix.SYS_READ:
		return signature{"read", "fd,hex,int"}, true
	case unix.SYS_WRITE:
		return signature{"write", "fd,buf,int"}, true
	case unix.SYS_DUP3:
		return signature{"dup3", "fd,fd,open"}, true
	case unix.SYS_MKDIRAT:
		return signature{"mkdirat", "fd,str,oct"}, true
	case unix.SYS_MKNODAT:
		return signature{"mknodat", "fd,str,oct,hex"}, true
	case unix.SYS_UNLINKAT:
		return signature{"unlinkat", "fd,str,hex"}, true
	case unix.SYS_FCNTL:
		return signature{"fcntl", "fd,int,int"}, true
	case unix.SYS_SYMLINKAT:
		return signature{"symlinkat", "str,fd,str"}, true
	case unix.SYS_FCHMOD:
		return signature{"fchmod", "fd,oct"}, true
	case unix.SYS_FCHMODAT:
		return signature{"fchmodat", "fd,str,oct"}, true
	case unix.SYS_FSETXATTR:
		return signature{"fsetxattr", "fd,str,str,int,hex"}, true
	case unix.SYS_FCHOWNAT:
		return signature{"fchownat", "fd,str,int,int,tree"}, true
	case sysFstatat:
		return signature{"newfstatat", "fd,str,hex,tree"}, true
	case unix.SYS_FSTATFS:
		return signature{"fstatfs", "fd,hex"}, true
	case unix.SYS_FSOPEN:
		return signature{"fsopen", "str,hex"}, true
	case unix.SYS_FSCONFIG:
		return signature{"fsconfig", "fd,fsconfig,str,str,fd"}, true
	case unix.SYS_FSMOUNT:
		return signature{"fsmount", "fd,hex,mountattr"}, true
	case unix.SYS_OPEN_TREE:
		return signature{"open_tree", "fd,str,tree"}, true
	case unix.SYS_MOVE_MOUNT:
		return signature{"move_mount", "fd,str,fd,str,move"}, true
	case unix.SYS_MOUNT_SETATTR:
		return signature{"mount_setattr", "fd,str,tree,attr,int"}, true
	case unix.SYS_MOUNT:
		return signature{"mount", "str,str,str,mount,str"}, true
	case unix.SYS_UMOUNT2:
		return signature{"umount2", "str,umount"}, true
	case unix.SYS_PIVOT_ROOT:
		return signature{"pivot_root", "str,str"}, true
	case unix.SYS_CHROOT:
		return signature{"chroot", "str"}, true
	case unix.SYS_FACCESSAT:
		return signature{"faccessat", "fd,str,int"}, true
	case unix.SYS_FSPICK:
		return signature{"fspick", "fd,str,hex"}, true
	case unix.SYS_CHDIR:
		return signature{"chdir", "str"}, true
	case unix.SYS_FCHDIR:
		return signature{"fchdir", "fd"}, true
	case unix.SYS_GETCWD:
		return signature{"getcwd", "hex,int"}, true
	case unix.SYS_IOCTL:
		return signature{"ioctl", "fd,hex,hex"}, true
	}
	return signature{}, false
}

func processSignature(nr uint32) (signature, bool) {
	switch nr {
	case unix.SYS_EXECVE:
		return signature{"execve", "str,strs,strs"}, true
	case unix.SYS_UNSHARE:
		return signature{"unshare", "clone"}, true
	case unix.SYS_SETNS:
		return signature{"setns", "fd,clone"}, true
	case unix.SYS_UMASK:
		return signature{"umask", "oct"}, true
	case unix.SYS_SETSID:
		return signature{"setsid", ""}, true
	case unix.SYS_SETHOSTNAME:
		return signature{"sethostname", "str,int"}, true
	case unix.SYS_SETDOMAINNAME:
		return signature{"setdomainname", "str,int"}, true
	case unix.SYS_PRLIMIT64:
		return signature{"prlimit64", "int,int,hex,hex"}, true
	case unix.SYS_PRCTL:
		return signature{"prctl", "prctl,hex,hex,hex,hex"}, true
	case unix.SYS_SECCOMP:
		return signature{"seccomp", "int,hex,hex"}, true
	case unix.SYS_SETGROUPS:
		return signature{"setgroups", "int,hex"}, true
	case unix.SYS_SETRESUID:
		return signature{"setresuid", "int,int,int"}, true
	case unix.SYS_SETRESGID:
		return signature{"setresgid", "int,int,int"}, true
	case unix.SYS_CAPSET:
		return signature{"capset", "hex,hex"}, true
	case unix.SYS_KEYCTL:
		return signature{"keyctl", "int,hex,hex"}, true
	case unix.SYS_SOCKET:
		return signature{"socket", "int,int,int"}, true
	case unix.SYS_PERSONALITY:
		return signature{"personality", "hex"}, true
	case unix.SYS_SCHED_SETATTR:
		return signature{"sched_setattr", "int,hex,int"}, true
	case unix.SYS_SCHED_SETAFFINITY:
		return signature{"sched_setaffinity", "int,int,hex"}, true
	case unix.SYS_IOPRIO_SET:
		return signature{"ioprio_set", "int,int,int"}, true
	case unix.SYS_SET_MEMPOLICY:
		return signature{"set_mempolicy", "int,hex,int"}, true
	case unix.SYS_EXIT_GROUP:
		return signature{"exit_group", "int"}, true
	}
	return signature{}, false
}

// flagName is one bit (or several) of a flag argument.
type flagName struct {
	bits uint64
	name string
}

func flagNames(v uint64, names func() []flagName) string {
	var s []string
	for _, f := range names() {
		if f.bits != 0 && v&f.bits == f.bits {
			s = append(s, f.name)
			v &^= f.bits
		}
	}
	if v != 0 || len(s) == 0 {
		s = append(s, "0x"+strconv.FormatUint(v, 16))
	}
	if len(s) == 1 && s[0] == "0x0" {
		return "0"
	}
	return strings.Join(s, "|")
}
