package recovery

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"testing"

	"ublk/ctrl"
	"ublk/internal/labtest"
	"ublk/internal/uapi"
)

// TestLabState spoils what is remembered of a device in every way: recover says
// what is wrong and what to do, changes nothing, and does it when told the type.
func TestLabState(t *testing.T) {
	c := labtest.Begin(t)
	other := add(t, "-t", "null", "--recovery=reissue")
	otherState, err := os.ReadFile(fmt.Sprintf("/run/ublk/%d/config", other))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		spoil func(state []byte) []byte // nil: no file
		says  string
	}{
		{"missing", func([]byte) []byte { return nil }, "no state file"},
		{"empty", func([]byte) []byte { return []byte{} }, "torn state file"},
		{"truncated", func(s []byte) []byte { return s[:len(s)/2] }, "torn state file"},
		{"edited", func(s []byte) []byte { return bytes.Replace(s, []byte(`"type":"null"`), []byte(`"type":"loop"`), 1) }, "checksum"},
		{"newer", func(s []byte) []byte { return bytes.Replace(s, []byte(`"version":1`), []byte(`"version":99`), 1) }, "newer release"},
		{"foreign", func([]byte) []byte { return otherState }, fmt.Sprintf("that of device %d", other)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := add(t, "-t", "null", "--size", "1G", "--recovery=reissue")
			name := strconv.Itoa(id)
			path := fmt.Sprintf("/run/ublk/%d/config", id)
			state, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			kill(t, c, id)
			spoiled := tt.spoil(state)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if spoiled != nil {
				if err := os.WriteFile(path, spoiled, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			run(t, "recover", name).is(t, 1, tt.says, "ublk recover "+name+" --type TYPE", "ublk del --force "+name)
			if now, _ := os.ReadFile(path); !bytes.Equal(now, spoiled) {
				t.Errorf("the state file was changed:\n%s\n%s", spoiled, now)
			}
			becomes(t, c, id, ctrl.Quiesced, 0)
			run(t, "recover", name, "-t", "null", "--size", "2G").is(t, 1, "1073741824 bytes", "--size 1073741824")
			run(t, "recover", name, "-t", "null", "--size", "1G").is(t, 0)
			run(t, "recover", name).is(t, 7, "has a server")
			pid := kill(t, c, id)
			run(t, "recover", name).is(t, 0) // from what was written anew
			becomes(t, c, id, ctrl.Live, pid)
		})
	}
}

// TestLabUnsupported is what a kernel without the features answers, by name.
func TestLabUnsupported(t *testing.T) {
	c := labtest.Begin(t)
	have, err := c.Features(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !have.Has(uapi.FlagUserRecoveryFailIO) {
		run(t, "add", "-t", "null", "--recovery=fail").is(t, 6, "UBLK_F_USER_RECOVERY_FAIL_IO", "6.13")
	}
	id := strconv.Itoa(add(t, "-t", "null", "--recovery=reissue"))
	if !have.Has(uapi.FlagQuiesce) {
		run(t, "upgrade", id).is(t, 6, "UBLK_F_QUIESCE", "6.16")
	} else {
		plain := strconv.Itoa(add(t, "-t", "null"))
		run(t, "upgrade", plain).is(t, 6, "UBLK_F_USER_RECOVERY")
		fails := strconv.Itoa(add(t, "-t", "null", "--recovery=fail"))
		run(t, "upgrade", fails).is(t, 1, "--force")
		run(t, "upgrade", fails, "--force").is(t, 0)
	}
	run(t, "recover", id).is(t, 7, "has a server")
	run(t, "recover", "999999").is(t, 4)
	run(t, "recover", "--all").is(t, 0)
}

// TestLabFailIO is recovery=fail: errors while there is no server, and none after.
func TestLabFailIO(t *testing.T) {
	c := labtest.Begin(t)
	labtest.RequireFeature(t, c, uapi.FlagUserRecoveryFailIO)
	id := add(t, "-t", "null", "--recovery=fail")
	pid := kill(t, c, id)
	becomes(t, c, id, ctrl.FailIO, pid)
	f, err := os.OpenFile(ctrl.BlockPath(id), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buffer := make([]byte, 4096)
	if _, err := f.ReadAt(buffer, 1<<20); err == nil {
		t.Error("a read without a server succeeded")
	}
	run(t, "recover", strconv.Itoa(id)).is(t, 0)
	if _, err := f.ReadAt(buffer, 2<<20); err != nil {
		t.Errorf("after the recovery: %v", err)
	}
}

// TestLabResized kills the server of a device that is larger than when it was
// added: the next one knows.
func TestLabResized(t *testing.T) {
	c := labtest.Begin(t)
	labtest.RequireFeature(t, c, uapi.FlagUpdateSize)
	for name, id := range map[string]int{
		"null":          add(t, "-t", "null", "--size", "1G", "--recovery=reissue"),
		"all of a file": loopDevice(t, 16<<20, "--recovery=reissue"),
	} {
		for _, size := range []string{"2G", "3G"} {
			run(t, "resize", strconv.Itoa(id), size).is(t, 0)
			pid := kill(t, c, id)
			run(t, "recover", strconv.Itoa(id)).is(t, 0)
			becomes(t, c, id, ctrl.Live, pid)
		}
		text, err := os.ReadFile(fmt.Sprintf("/sys/block/ublkb%d/size", id))
		if err != nil || string(text) != fmt.Sprintln(3<<30/512) {
			t.Errorf("%s: %s sectors, %v", name, text, err)
		}
	}
}
