package units

import "fmt"

// Counted prints a number of things with their name: 1 request, 2 requests.
func Counted[N int | uint64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
