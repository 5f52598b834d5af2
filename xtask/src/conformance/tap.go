// Package tap prints results in the Test Anything Protocol, version 13 (https://testanything.org): what the validation
// programs import under the name of a package that Debian does not have. Diagnostics are written as JSON, which is YAML.
package tap

import (
	"encoding/json"
	"fmt"
	"strings"
)

// T is one producer: one program, one plan.
type T struct {
	count *count
	todo  bool
}

type count struct {
	ran     int
	planned bool
}

// New returns a producer that has printed nothing.
func New() *T { return &T{count: &count{}} }

// Todo returns the same producer for results that are not expected to be good yet.
func (t *T) Todo() *T { return &T{count: t.count, todo: true} }

// Header prints the version, and the plan when the number of tests is known.
func (t *T) Header(tests int) {
	fmt.Println("TAP version 13")
	if tests > 0 {
		t.plan(tests)
	}
}

// AutoPlan prints the plan at the end, when Header did not.
func (t *T) AutoPlan() {
	if !t.count.planned {
		t.plan(t.count.ran)
	}
}

func (t *T) plan(tests int) {
	t.count.planned = true
	fmt.Printf("1..%d\n", tests)
}

// Ok prints one result.
func (t *T) Ok(good bool, description string) {
	t.count.ran++
	word := "ok"
	if !good {
		word = "not ok"
	}
	mark := "-"
	if t.todo {
		mark = "# TODO"
	}
	fmt.Printf("%s %d %s %s\n", word, t.count.ran, mark, description)
}

// Pass prints a good result.
func (t *T) Pass(description string) { t.Ok(true, description) }

// Fail prints a result that is not good.
func (t *T) Fail(description string) { t.Ok(false, description) }

// Skip prints tests that were not run.
func (t *T) Skip(tests int, description string) {
	for ; tests > 0; tests-- {
		t.count.ran++
		fmt.Printf("ok %d # SKIP %s\n", t.count.ran, description)
	}
}

// Diagnostic prints a text as comment lines.
func (t *T) Diagnostic(text string) {
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		fmt.Println("# " + line)
	}
}

// Diagnosticf does so with a format.
func (t *T) Diagnosticf(format string, values ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, values...))
}

// YAML prints a value as the block that belongs to the result before it.
func (t *T) YAML(value interface{}) error {
	text, err := json.MarshalIndent(value, "  ", "  ")
	if err != nil {
		return err
	}
	fmt.Printf("  ---\n  %s\n  ...\n", text)
	return nil
}
