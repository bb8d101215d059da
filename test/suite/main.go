// Command suite runs go test over packages, prints what failed and nothing else, and
// ends with one line of counts. It fails when more tests were skipped than said,
// so that a suite cannot shrink without notice.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// event is a line of `go test -json` (go doc test2json).
type event struct {
	Action, Package, Test, Output string
	ImportPath                    string
	Elapsed                       float64
}

type counts struct{ passed, failed, skipped int }

func main() {
	skips := flag.Int("skips", -1, "fail unless exactly this many tests were skipped; -1 allows any number")
	short := flag.Bool("short", false, "leave out the end-to-end scripts")
	timeout := flag.String("timeout", "10m", "time limit of one package")
	flag.Parse()
	args := []string{"test", "-json", "-timeout", *timeout}
	if *short {
		args = append(args, "-short")
	}
	cmd := exec.Command("go", append(args, flag.Args()...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "suite:", err)
		os.Exit(1)
	}
	n, skipped := follow(out)
	err = cmd.Wait()
	for _, s := range skipped {
		fmt.Println("skipped:", s)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", n.passed, n.failed, n.skipped)
	switch {
	case err != nil || n.failed > 0:
		os.Exit(1)
	case *skips >= 0 && n.skipped != *skips:
		fmt.Printf("suite: %d tests were skipped, expected %d\n", n.skipped, *skips)
		os.Exit(1)
	}
}

// follow counts the results in r, prints a line per package and the output of what failed.
func follow(r io.Reader) (n counts, skipped []string) {
	output := map[string][]string{} // by package and test, dropped when it passes
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Println(lines.Text())
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output", "build-output":
			if e.Action == "build-output" {
				fmt.Print(e.Output)
				continue
			}
			output[key] = append(output[key], e.Output)
		case "pass", "skip", "fail":
			n.add(e, &skipped)
			if e.Action == "fail" {
				fmt.Print(strings.Join(output[key], ""))
			}
			if e.Test == "" && e.Action != "skip" {
				fmt.Printf("%s\t%s\t%.1fs\n", e.Action, e.Package, e.Elapsed)
			}
			delete(output, key)
		}
	}
	return n, skipped
}

func (n *counts) add(e event, skipped *[]string) {
	if e.Test == "" {
		if e.Action == "fail" {
			n.failed++
		}
		return
	}
	switch e.Action {
	case "pass":
		n.passed++
	case "fail":
		n.failed++
	case "skip":
		n.skipped++
		*skipped = append(*skipped, e.Package+" "+e.Test)
	}
}
