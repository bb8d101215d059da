package dockerfile

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// laughs is a Dockerfile whose last variable has 10^lines bytes.
func laughs(instruction string, lines int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "FROM scratch\n%s A0=xxxxxxxxxx\n", instruction)
	for i := 1; i < lines; i++ {
		fmt.Fprintf(&b, "%s A%d=%s\n", instruction, i, strings.Repeat(fmt.Sprintf("${A%d}", i-1), 10))
	}
	return b.String()
}

func TestCheckExpansion(t *testing.T) {
	long := strings.Repeat("x", 2<<20)
	for name, c := range map[string]struct {
		text  string
		args  map[string]string
		base  string // config of an image
		fails string
	}{
		"a few":                               {text: laughs("ARG", 5)},
		"ARG":                                 {text: laughs("ARG", 12), fails: "Dockerfile:8: the value of A6 would be too large"},
		"ENV":                                 {text: laughs("ENV", 12), fails: "A6"},
		"before the first FROM":               {text: strings.TrimPrefix(laughs("ARG", 12), "FROM scratch\n"), fails: "A6"},
		"the older form of ENV":               {text: "FROM scratch\nENV A " + strings.Repeat("x", 1000) + "\nENV B " + strings.Repeat("$A", 1100) + "\n", fails: "value of B"},
		"itself":                              {text: "FROM scratch\nARG A=xx\n" + strings.Repeat("ARG A=$A$A\n", 30), fails: "value of A"},
		"replaced":                            {text: "FROM scratch\nARG A=" + strings.Repeat("x", 2000) + "\nARG B=${A//x/$A}\n", fails: "value of B"},
		"nested in a default":                 {text: laughs("ARG", 5) + "ENV Z=${NO:-" + strings.Repeat("$A4", 20) + "}\n", fails: "value of Z"},
		"nested replacements":                 {text: "FROM scratch\nARG A=" + strings.Repeat("x", 200) + "\nARG B=${A//x/${A//x/$A}}\n", fails: "value of B"},
		"nested without end":                  {text: "FROM scratch\nARG A=x\nARG B=" + strings.Repeat("${A//x/", 7000) + "\n", fails: "value of B"},
		"side by side":                        {text: "FROM scratch\nARG A=x\nARG B=" + strings.Repeat("${A//x/y}", 6000) + "\n"},
		"from the command line":               {text: "FROM scratch\nARG A\nARG B=$A$A\n", args: map[string]string{"A": long}, fails: "value of B"},
		"many labels":                         {text: laughs("ARG", 5) + strings.Repeat("LABEL a="+strings.Repeat("$A4", 10)+"\n", 300), fails: "variables"},
		"in the environment of many commands": {text: laughs("ENV", 5) + strings.Repeat("RUN x\n", 3000), fails: "variables"},
		"in a document":                       {text: laughs("ARG", 5) + "COPY <<E /\n" + strings.Repeat("$A4", 3000) + "\nE\n", fails: "variables"},
		"long, but as given":                  {text: "FROM scratch\nARG A\nENV B=" + long + "\nRUN $A $A\n", args: map[string]string{"A": long}},
		"PATH that grows":                     {text: "FROM scratch\n" + strings.Repeat("ENV PATH=$PATH:/usr/local/some/where/bin\n", 200) + strings.Repeat("RUN $PATH\n", 500)},
		"replacements":                        {text: "FROM scratch\nARG V=1.2.3\nARG W=${V//./_}\nARG X=${W//_/-}\nARG Y=${X/#v/}\nARG Z=${Y//-/ and }\nENV A=$Z$Z$Z\n"},
		"ONBUILD of another stage":            {text: "FROM a AS b\n" + strings.ReplaceAll(strings.TrimPrefix(laughs("ENV", 12), "FROM scratch\n"), "ENV", "ONBUILD ENV") + "FROM b\n", fails: ":14: the value of A6"},
		"ONBUILD before what it uses":         {text: "FROM a AS b\nONBUILD ENV B=" + strings.Repeat("$A", 2000) + "\nENV A=" + strings.Repeat("x", 1000) + "\nFROM b\n", fails: ":4: the value of B"},
		"ONBUILD that nobody uses":            {text: "FROM a\n" + strings.ReplaceAll(laughs("ENV", 12), "ENV", "ONBUILD ENV")[len("FROM scratch\n"):]},
		"ONBUILD of a base": {
			text: "FROM base\n", base: `{"config":{"Env":["A=` + strings.Repeat("x", 1000) + `"],"OnBuild":["ENV B=` + strings.Repeat("$A", 2000) + `"]}}`,
			fails: ":1: the value of B",
		},
		"environment of a base":        {text: "FROM base\nENV B=" + strings.Repeat("$A", 2000) + "\n", base: `{"config":{"Env":["A=` + strings.Repeat("x", 1000) + `"]}}`, fails: ":2: the value of B"},
		"a base that says nothing new": {text: laughs("ARG", 5), base: `{"config":{"Env":["PATH=/bin"],"OnBuild":["RUN $PATH $A4","ENV P=$PATH:/x"]}}`},
		"a base that cannot be read":   {text: laughs("ARG", 5), base: `{`},
		"what is no Dockerfile":        {text: "$a $b\n\x00"},
		"many variables":               {text: "FROM scratch\n" + strings.Repeat("ENV abc=1\n", maxVariables+1), fails: ":10002: 10001 variables"},
		"many variables in few lines":  {text: "FROM scratch\n" + strings.Repeat("ENV"+strings.Repeat(" \\\n a=1", 101)+"\n", 100), fails: "variables of ENV and ARG in"},
		"many arguments":               {text: "FROM scratch\n" + strings.Repeat("ARG abc=1 d\n", maxVariables/2+1), fails: ":5002: 10002 variables"},
		"arguments before a stage":     {text: "ARG A0=scratch\n" + strings.Repeat("ARG A1=$A0\n", maxReferring) + "ARG A2=$A1\nFROM $A2\n", fails: ":2002: 2001 variables made of others"},
		"as many as there may be":      {text: "ARG A0=scratch\n" + strings.Repeat("ARG A1=$A0\n", maxReferring) + "FROM $A1\nRUN" + strings.Repeat(" \\\n a", 5000) + "\n"},
		"many lines":                   {text: "FROM scratch\nRUN" + strings.Repeat(" \\\n", maxLines), fails: ":1000001: 1000001 lines"},
		"many ports":                   {text: "FROM scratch\nEXPOSE 1-65535\nEXPOSE" + strings.Repeat(" 1-65535/tcp", 61) + "\n", fails: ":3: EXPOSE may come to 4063170 ports"},
		"many ports of one variable":   {text: "FROM scratch\nARG P=\"" + strings.Repeat(" 1-65535", 62) + "\"\nEXPOSE $P\n", fails: ":3: EXPOSE may come to"},
		"many ports in ONBUILD":        {text: "FROM base\n", base: `{"config":{"OnBuild":["EXPOSE` + strings.Repeat(" 1-65535", 70) + `"]}}`, fails: ":1: EXPOSE may come to"},
		"all ports":                    {text: "FROM scratch\nEXPOSE 1-65535/tcp 1-65535/udp 127.0.0.1:80:80 8000-8010\n" + strings.Repeat("ARG PORT=8080\nEXPOSE $PORT ${PORT}/udp\n", 100)},
		"many instructions":            {text: "FROM scratch\n" + strings.Repeat("USER a\n", maxInstructions), fails: ":100001: 100001 instructions"},
		"variables in many stages":     {text: "FROM scratch AS s\n" + strings.Repeat("FROM s AS s\nENV abc=1\n", 1001), fails: "1000 variables of ENV and ARG in 1001 stages"},
		"variables of a large base":    {text: "FROM scratch AS s\nFROM s\n", base: `{"config":{"Env":["A=1"` + strings.Repeat(`,"A=1"`, maxVariables) + `]}}`, fails: "variables of ENV and ARG in"},
		"as many as people have":       {text: strings.Repeat("FROM scratch AS some-stage\n"+strings.Repeat("ENV VARIABLE=value\n", 20), 150)},
	} {
		e := expansion{args: c.args}
		err := e.read("Dockerfile", []byte(c.text))
		if c.base != "" {
			if err != nil {
				t.Errorf("%s: before the base is known: %v", name, err)
			}
			err = e.base([]byte(c.base))
		}
		var where *Error
		switch {
		case c.fails == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails) || !errors.As(err, &where)):
			t.Errorf("%s: got %v, want an error at a place with %q", name, err, c.fails)
		}
	}
}

func FuzzCheckExpansion(f *testing.F) {
	f.Add([]byte(laughs("ENV", 4)), "x", []byte("{}"))
	f.Add([]byte("FROM a\nARG A=${B//${C}/$D}\nENV a b $c\nENV a=\nARG\nCOPY <<E /\n${\nE\nRUN $"), "", []byte(`{"config":{"Env":["B=x","="],"OnBuild":["ENV C=$B$B","FROM x","ONBUILD RUN $C",""]}}`))
	f.Add([]byte("# escape=`\nFROM a\nONBUILD ONBUILD\nLABEL $$$${A:-${A:-$A}}${//}\nFROM a\nFROM b"), "y", []byte(`{"config":null}`))
	f.Fuzz(func(t *testing.T, text []byte, value string, base []byte) {
		e := expansion{args: map[string]string{"A": value}}
		for _, err := range []error{e.read("Dockerfile", text), e.base(base)} {
			if err == nil {
				continue
			}
			var where *Error
			if !errors.As(err, &where) || where.Where.Start < 1 {
				t.Errorf("an error without a place: %v", err)
			}
		}
	})
}
