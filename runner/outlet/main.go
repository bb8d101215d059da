package outlet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Main serves the socket that is descriptor 3; see Serve. The arguments are the MTU and the
// gateways' addresses with their prefixes. It says what is wrong, or nothing and closes its
// output when it is ready.
func Main(args []string) int {
	o, err := parse(args)
	if err == nil {
		o.Ready = silence
		err = Serve(context.Background(), os.NewFile(3, "packets"), o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "teu-outlet:", err)
		return 1
	}
	return 0
}

func parse(args []string) (o Options, err error) {
	if len(args) < 2 {
		return o, errors.New("usage: teu-outlet MTU GATEWAY [GATEWAY]")
	}
	if o.MTU, err = strconv.Atoi(args[0]); err != nil {
		return o, err
	}
	for _, s := range args[1:] {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return o, err
		}
		o.Addresses = append(o.Addresses, p)
	}
	return o, nil
}

// silence leads what this process says nowhere: who started it goes.
func silence() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for fd := range 3 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	return nil
}
