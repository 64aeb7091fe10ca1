package sysfs

import (
	"errors"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// machine is a root with disk ublkb3 (259:5) of one partition (259:6), and the
// processes that a test adds.
func machine(t *testing.T, more map[string]string) *FS {
	files := map[string]string{
		"sys/block/ublkb3/dev":           "259:5\n",
		"sys/block/ublkb3/ublkb3p1/dev":  "259:6\n",
		"sys/class/ublk-char/ublkc3/dev": "244:3\n",
		"proc/self":                      "-> 100",
	}
	for name, content := range more {
		files[name] = content
	}
	return withNodes(tree(t, files), map[string]Node{
		"/dev/ublkb3":      {Dev: Dev{259, 5}, Block: true},
		"/dev/ublkb3p1":    {Dev: Dev{259, 6}, Block: true},
		"/tmp/its/disk":    {Dev: Dev{259, 5}, Block: true},
		"/dev/ublkc3":      {Dev: Dev{244, 3}, Char: true},
		"/dev/sda":         {Dev: Dev{259, 7}, Block: true},
		"/dev/disk/by-x/p": {Dev: Dev{259, 6}, Block: true},
	})
}

// process is the files of a process; fds go from number to link.
func process(files map[string]string, pid, comm, parent, namespace, mounts string, fds map[string]string) {
	files["proc/"+pid+"/stat"] = pid + " (" + comm + ") S " + parent + strings.Repeat(" 0", 50)
	files["proc/"+pid+"/ns/mnt"] = "-> mnt:[" + namespace + "]"
	files["proc/"+pid+"/root"] = "-> /"
	files["proc/"+pid+"/mountinfo"] = mounts
	files["proc/"+pid+"/fd/0"] = "-> /dev/null"
	for fd, link := range fds {
		files["proc/"+pid+"/fd/"+fd] = "-> " + link
	}
}

func describe(users []User) string {
	var lines []string
	for _, user := range users {
		lines = append(lines, user.String())
	}
	return strings.Join(lines, "\n")
}

func checkUsers(t *testing.T, f *FS, want ...string) {
	t.Helper()
	users, partial, err := f.Users(3)
	if err != nil || partial {
		t.Fatalf("partial %v, %v", partial, err)
	}
	if got := describe(users); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestNobodyUses(t *testing.T) {
	files := map[string]string{}
	process(files, "100", "ublk", "1", "1", "25 1 259:7 / / rw - ext4 /dev/sda rw\n", map[string]string{"3": "/dev/sda", "4": "pipe:[5]"})
	checkUsers(t, machine(t, files))
}

func TestOpeners(t *testing.T) {
	files := map[string]string{}
	process(files, "100", "ublk", "1", "1", "", nil)
	process(files, "4411", "fio", "1", "1", "", map[string]string{"3": "/dev/ublkb3", "4": "/dev/ublkb3", "5": "/dev/ublkb3p1", "6": "/dev/ublkc3"})
	process(files, "4412", "container", "1", "1", "", map[string]string{"3": "/tmp/its/disk"})
	process(files, "4413", "(udev-worker)", "1", "1", "", map[string]string{"9": "/dev/ublkb3"})
	process(files, "4414", "blkid", "4413", "1", "", map[string]string{"9": "/dev/ublkb3"})
	process(files, "4415", "ringer", "1", "1", "", map[string]string{"9": ringLink})
	files["proc/4415/fdinfo/9"] = "UserFiles:\t2\n    0: /dev/ublkb3\n    1: /dev/ublkb4\n"
	process(files, "4416", "ghost", "1", "1", "", map[string]string{"3": "/dev/ublkb3 (deleted)"})
	f := machine(t, files)
	checkUsers(t, f,
		"pid 4411 (fio) has /dev/ublkb3 open",
		"pid 4412 (container) has /dev/ublkb3 open",
		"pid 4413 ((udev-worker)) has /dev/ublkb3 open",
		"pid 4414 (blkid) has /dev/ublkb3 open",
		"pid 4415 (ringer) has /dev/ublkb3 open",
		"pid 4416 (ghost) has /dev/ublkb3 open",
		"pid 4411 (fio) has /dev/ublkb3p1 open",
	)
	users, _, _ := f.Users(3)
	for _, user := range users {
		if want := user.PID == 4413 || user.PID == 4414; user.UDev != want {
			t.Errorf("pid %d is udev: %v", user.PID, user.UDev)
		}
	}
}

func TestUsersOfStoppedDisk(t *testing.T) {
	files := map[string]string{}
	process(files, "100", "fio", "1", "1", "25 1 259:9 / /mnt rw - ext4 /dev/ublkb7 rw\n", map[string]string{"3": "/dev/ublkb7 (deleted)"})
	users, partial, err := machine(t, files).Users(7)
	want := "/mnt (ext4) is mounted from /dev/ublkb7\npid 100 (fio) has /dev/ublkb7 open"
	if got := describe(users); err != nil || partial || got != want {
		t.Errorf("got %s, %v, %v", got, partial, err)
	}
}

func TestUsersOfSeveral(t *testing.T) {
	files := map[string]string{"sys/block/ublkb10/dev": "259:7\n", "sys/block/ublkb10/holders/md0": "-> x"}
	process(files, "100", "fio", "1", "1", "25 1 259:5 / /a rw - ext4 /dev/ublkb3 rw\n", map[string]string{"3": "/dev/ublkb3", "4": "/dev/ublkb10"})
	users, _, err := machine(t, files).Users(10, 3, 99)
	want := []User{
		{Kind: UserMount, ID: 3, Device: "ublkb3", PID: 100, Command: "fio", MountPoint: "/a", FSType: "ext4", Namespace: 1},
		{Kind: UserOpener, ID: 3, Device: "ublkb3", PID: 100, Command: "fio"},
		{Kind: UserHolder, ID: 10, Device: "ublkb10", Name: "md0"},
		{Kind: UserOpener, ID: 10, Device: "ublkb10", PID: 100, Command: "fio"},
	}
	if err != nil || !reflect.DeepEqual(users, want) {
		t.Errorf("got %+v, %v", users, err)
	}
}

func TestMounts(t *testing.T) {
	own := `25 1 259:7 / / rw - ext4 /dev/sda rw
30 25 259:5 / /mnt/a\040b rw,relatime shared:1 - xfs /dev/ublkb3 rw
31 25 259:5 /sub /srv rw - xfs /dev/ublkb3 rw
32 25 0:44 / /mnt/btrfs rw - btrfs /dev/ublkb3p1 rw,subvol=/
33 25 0:45 / /mnt/link rw - btrfs /dev/disk/by-x/p rw
34 25 0:46 / /proc rw - proc proc rw
`
	files := map[string]string{}
	process(files, "100", "ublk", "1", "1", own, nil)
	process(files, "200", "bash", "1", "1", "not read: the same view\n", nil)
	process(files, "300", "runc", "1", "2", own+"40 25 259:6 / /data rw - ext4 /dev/ublkb3p1 rw\n", nil)
	process(files, "400", "chrooted", "1", "1", "41 25 259:5 / / rw - xfs /dev/ublkb3 rw\n", nil)
	files["proc/400/root"] = "-> /mnt/a b"
	files["sys/fs/xfs/ublkb3/error"] = "" // seen above already
	f := machine(t, files)
	checkUsers(t, f,
		"/mnt/a b (xfs) is mounted from /dev/ublkb3",
		"/srv (xfs) is mounted from /dev/ublkb3",
		"/ (xfs) is mounted from /dev/ublkb3",
		"/mnt/btrfs (btrfs) is mounted from /dev/ublkb3p1",
		"/mnt/link (btrfs) is mounted from /dev/ublkb3p1",
		"/data (ext4) is mounted from /dev/ublkb3p1 in the mount namespace of pid 300 (runc)",
	)
	users, _, _ := f.Users(3)
	if last := users[len(users)-1]; last.Namespace != 2 || !last.Foreign || users[0].Namespace != 1 || users[0].Foreign {
		t.Errorf("namespaces of %+v and %+v", users[0], last)
	}
}

func TestHiddenMounts(t *testing.T) {
	files := map[string]string{"sys/fs/ext4/ublkb3/state": "", "sys/fs/btrfs/1-2-3/devices/ublkb3p1": "", "sys/fs/fuse/connections/1/x": ""}
	process(files, "100", "ublk", "1", "1", "", nil)
	checkUsers(t, machine(t, files),
		"ext4 is active on /dev/ublkb3, mounted where no visible process sees it (lazily unmounted, or another mount namespace)",
		"btrfs is active on /dev/ublkb3p1, mounted where no visible process sees it (lazily unmounted, or another mount namespace)",
	)
}

func TestHoldersSwapsLoops(t *testing.T) {
	files := map[string]string{
		"sys/block/ublkb3/holders/dm-0":           "-> ../../dm-0",
		"sys/block/ublkb3/ublkb3p1/holders/md127": "-> ../../../md127",
		"sys/block/dm-0/dm/name":                  "vg-root\n",
		"sys/block/loop0/loop/backing_file":       "/dev/ublkb3\n",
		"sys/block/loop1/loop/backing_file":       "/var/ublkb3.img\n",
		"sys/block/loop2/size":                    "0\n",
		"proc/swaps":                              "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/ublkb3p1                           partition\t1024\t0\t-2\n/dev/ublkb3  file 1 0 -3\n",
	}
	process(files, "100", "ublk", "1", "1", "", nil)
	checkUsers(t, machine(t, files),
		"swap is on /dev/ublkb3p1",
		"device mapper vg-root (dm-0) is built on /dev/ublkb3",
		"/dev/md127 is built on /dev/ublkb3p1",
		"/dev/loop0 is backed by /dev/ublkb3",
	)
}

func TestCharHolder(t *testing.T) {
	for _, test := range []struct {
		name string
		fds  map[string]string
		more map[string]string
		want bool
	}{
		{"nobody", nil, nil, false},
		{"descriptor", map[string]string{"7": "/dev/ublkc3"}, nil, true},
		{"block device only", map[string]string{"7": "/dev/ublkb3"}, nil, false},
		{"registered", map[string]string{"7": ringLink}, map[string]string{"proc/500/fdinfo/7": "UserFiles:\t1\n    0: /dev/ublkc3\n"}, true},
		{"registered, old kernel", map[string]string{"7": ringLink}, map[string]string{"proc/500/fdinfo/7": "UserFiles:\t1\n    0: ublkc3\n"}, true},
		{"another's", map[string]string{"7": ringLink}, map[string]string{
			"proc/500/fdinfo/7": "UserFiles:\t1\n    0: /dev/ublkc33\n", "proc/500/maps": "7f00-7f01 r--s 00000000 00:06 5 /dev/ublkc33\n"}, false},
		{"mapped", map[string]string{"7": ringLink}, map[string]string{
			"proc/500/fdinfo/7": "", "proc/500/maps": "7f00-7f01 r--p 00000000 00:00 0\n7f00-7f01 r--s 00000000 00:06 5 /dev/ublkc3\n"}, true},
	} {
		files := map[string]string{}
		process(files, "100", "ublk", "1", "1", "", nil)
		process(files, "500", "server", "1", "1", "", test.fds)
		for name, content := range test.more {
			files[name] = content
		}
		pid, ok, err := machine(t, files).CharHolder(3)
		if err != nil || ok != test.want || ok && pid != 500 {
			t.Errorf("%s: %d, %v, %v", test.name, pid, ok, err)
		}
	}
	_, _, err := machine(t, nil).CharHolder(8)
	wantNotExist(t, "char holder of no device", err)
}

func TestPartialScan(t *testing.T) {
	scan := procScan{}
	scan.note(fs.ErrNotExist)
	if scan.partial {
		t.Error("a process that ended makes the scan partial")
	}
	scan.note(&fs.PathError{Err: fs.ErrPermission})
	if !scan.partial {
		t.Error("a hidden process does not make the scan partial")
	}
}

func TestParseMountInfo(t *testing.T) {
	got := parseMountInfo("36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root\\134x rw,errors=continue\n" +
		"broken\n1 2 x:y / / rw - a b c\n1 2 0:1 / /\n1 2 0:1 / / rw - ext4\n")
	want := []mountInfo{{Dev{98, 0}, "/mnt 2", "ext3", `/dev/root\x`}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestUnescapeOctal(t *testing.T) {
	for text, want := range map[string]string{`a\040b`: "a b", `\134`: `\`, `\`: `\`, `\04`: `\04`, `\999`: `\999`, `\400`: `\400`, `a\040`: "a ", `\+12`: `\+12`} {
		if got := unescapeOctal(text); got != want {
			t.Errorf("unescapeOctal(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestGone(t *testing.T) {
	if err := gone(nil); err != nil {
		t.Error(err)
	}
	if err := gone(fs.ErrPermission); errors.Is(err, fs.ErrNotExist) || !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
}

func FuzzParseTables(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n")
	f.Add("Filename Type\n/dev/a\\040b partition 1 0 -2\n")
	f.Add("7f00-7f01 r--s 00000000 00:06 5 /dev/ublkc3\n")
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Count(text, "\n") + 1
		if mounts := parseMountInfo(text); len(mounts) > lines || slices.ContainsFunc(mounts, func(m mountInfo) bool { return m.fsType == "" || m.point == "" }) {
			t.Fatalf("%q gave %+v", text, mounts)
		}
		if swaps := parseSwaps(text); len(swaps) > lines {
			t.Fatalf("%q gave %q", text, swaps)
		}
		mapsFile(text, "/dev/ublkc3")
	})
}
