package main

import (
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	got := new(look).parse("\x1b[1mID  Q\x1b[0m a b\x1b[7;33m! \x1b[27m.\x1b[90m·")
	want := []run{
		{look{bold: true}, "ID"}, {look{bold: true}, "  Q"}, {look{}, " a b"},
		{look{colours[3], false, true}, "! "}, {look{colour: colours[3]}, "."}, {look{colour: colours[8]}, "·"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestDraw(t *testing.T) {
	var out strings.Builder
	if err := draw(&out, strings.NewReader("a <b>\n\x1b[31m▸ x\ny\n")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`width="70" height="82"`, ">a &lt;b&gt;</text>", `fill="#ff6b6b">▸ x</text>`, `fill="#ff6b6b">y</text>`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
}
