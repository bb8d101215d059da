package launch

import (
	"golang.org/x/sys/unix"
)

// flagSets finds the names of a kind of flags.
func flagSets(kind string) (func() []flagName, bool) {
	switch kind {
	case "open":
		return openFlags, true
	case "clone":
		return cloneFlags, true
	case "mount":
		return mountFlags, true
	case "mountattr":
		return mountAttrs, true
	case "tree":
		return treeFlags, true
	case "move":
		return moveFlags, true
	case "umount":
		return umountFlags, true
	case "fsconfig":
		return fsconfigCommands, true
	}
	return nil, false
}

func cloneFlags() []flagName {
	return []flagName{
		{unix.CLONE_NEWNS, "CLONE_NEWNS"}, {unix.CLONE_NEWPID, "CLONE_NEWPID"}, {unix.CLONE_NEWUTS, "CLONE_NEWUTS"},
		{unix.CLONE_NEWIPC, "CLONE_NEWIPC"}, {unix.CLONE_NEWNET, "CLONE_NEWNET"}, {unix.CLONE_NEWUSER, "CLONE_NEWUSER"},
		{unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"}, {unix.CLONE_NEWTIME, "CLONE_NEWTIME"},
	}
}

func openFlags() []flagName {
	return []flagName{
		{unix.O_PATH, "O_PATH"}, {unix.O_RDWR, "O_RDWR"}, {unix.O_WRONLY, "O_WRONLY"}, {unix.O_CREAT, "O_CREAT"},
		{unix.O_DIRECTORY, "O_DIRECTORY"}, {unix.O_NOFOLLOW, "O_NOFOLLOW"}, {unix.O_CLOEXEC, "O_CLOEXEC"},
		{unix.O_NOCTTY, "O_NOCTTY"}, {unix.O_NONBLOCK, "O_NONBLOCK"},
	}
}

func resolveFlags() []flagName {
	return []flagName{
		{unix.RESOLVE_IN_ROOT, "RESOLVE_IN_ROOT"}, {unix.RESOLVE_BENEATH, "RESOLVE_BENEATH"},
		{unix.RESOLVE_NO_MAGICLINKS, "RESOLVE_NO_MAGICLINKS"}, {unix.RESOLVE_NO_SYMLINKS, "RESOLVE_NO_SYMLINKS"},
		{unix.RESOLVE_NO_XDEV, "RESOLVE_NO_XDEV"},
	}
}

func mountFlags() []flagName {
	return []flagName{
		{unix.MS_REC, "MS_REC"}, {unix.MS_PRIVATE, "MS_PRIVATE"}, {unix.MS_SLAVE, "MS_SLAVE"}, {unix.MS_SHARED, "MS_SHARED"},
		{unix.MS_UNBINDABLE, "MS_UNBINDABLE"}, {unix.MS_BIND, "MS_BIND"}, {unix.MS_RDONLY, "MS_RDONLY"},
	}
}

func mountAttrs() []flagName {
	return []flagName{
		{unix.MOUNT_ATTR_RDONLY, "RDONLY"}, {unix.MOUNT_ATTR_NOSUID, "NOSUID"}, {unix.MOUNT_ATTR_NODEV, "NODEV"},
		{unix.MOUNT_ATTR_NOEXEC, "NOEXEC"}, {unix.MOUNT_ATTR_NODIRATIME, "NODIRATIME"}, {unix.MOUNT_ATTR_NOSYMFOLLOW, "NOSYMFOLLOW"},
		{unix.MOUNT_ATTR_STRICTATIME, "STRICTATIME"}, {unix.MOUNT_ATTR_NOATIME, "NOATIME"}, {unix.MOUNT_ATTR_IDMAP, "IDMAP"},
	}
}

func treeFlags() []flagName {
	return []flagName{
		{unix.OPEN_TREE_CLOEXEC, "OPEN_TREE_CLOEXEC"}, {unix.OPEN_TREE_CLONE, "OPEN_TREE_CLONE"},
		{unix.AT_RECURSIVE, "AT_RECURSIVE"}, {unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"}, {unix.AT_SYMLINK_NOFOLLOW, "AT_SYMLINK_NOFOLLOW"},
	}
}

func moveFlags() []flagName {
	return []flagName{
		{unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"}, {unix.MOVE_MOUNT_T_EMPTY_PATH, "MOVE_MOUNT_T_EMPTY_PATH"},
	}
}

func umountFlags() []flagName {
	return []flagName{{unix.MNT_DETACH, "MNT_DETACH"}, {unix.UMOUNT_NOFOLLOW, "UMOUNT_NOFOLLOW"}}
}

// fsconfigCommands are no bits, but their numbers are distinct when tried from the largest.
func fsconfigCommands() []flagName {
	return []flagName{
		{unix.FSCONFIG_CMD_RECONFIGURE, "RECONFIGURE"}, {unix.FSCONFIG_CMD_CREATE, "CREATE"},
		{unix.FSCONFIG_SET_FD, "SET_FD"}, {unix.FSCONFIG_SET_STRING, "SET_STRING"},
	}
}

// prctlNames are the operations of prctl(2) that programs use.
func prctlNames() []flagName {
	return []flagName{
		{unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"}, {unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS"}, {unix.PR_CAPBSET_DROP, "PR_CAPBSET_DROP"},
		{unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"}, {unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"},
	}
}
