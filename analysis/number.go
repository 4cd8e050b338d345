package analysis

import (
	"math"
	"strconv"
	"time"
)

// figure prints a measured value for people, with its unit: percentages and plain numbers with two decimals,
// milliseconds with none. Where limit is given and the value differs from it, so does the text: 98.999 beside a
// limit of 99 is not "99.00".
func (c Check) figure(value float64, limit *float64) string {
	if math.IsInf(value, 0) {
		return infinite(value)
	}
	decimals := 2
	if c.Unit == "ms" {
		decimals = 0
	}
	text := fixed(value, decimals)
	if limit == nil {
		return text + c.Unit
	}
	for ; decimals < 9 && reads(text, *limit); decimals++ {
		text = fixed(value, decimals+1)
	}
	if reads(text, *limit) {
		text = strconv.FormatFloat(value, 'g', -1, 64)
	}
	return text + c.Unit
}

// limit prints a limit as it was written.
func (c Check) limit(limit float64) string {
	if math.IsInf(limit, 0) {
		return infinite(limit)
	}
	return plain(limit, -1) + c.Unit
}

// fixed prints with the given decimals, or with three significant digits where those would show nothing.
func fixed(value float64, decimals int) string {
	if small := math.Abs(value); small > 0 && small < 0.5*math.Pow10(-decimals) && decimals > 0 {
		return strconv.FormatFloat(value, 'g', 3, 64)
	}
	return plain(value, decimals)
}

// plain avoids the hundreds of digits of very large numbers.
func plain(value float64, decimals int) string {
	if math.Abs(value) >= 1e15 {
		return strconv.FormatFloat(value, 'g', decimals, 64)
	}
	return strconv.FormatFloat(value, 'f', decimals, 64)
}

// reads reports whether a person who reads text takes it for the limit.
func reads(text string, limit float64) bool {
	read, err := strconv.ParseFloat(text, 64)
	return err == nil && read == limit
}

func infinite(value float64) string {
	if value < 0 {
		return "minus infinite"
	}
	return "infinite"
}

// Interval prints a duration as PromQL reads it, in the largest unit that divides it: 1m, 90s, 1500ms. Durations
// below a millisecond become 1ms.
func Interval(d time.Duration) string {
	units := []struct {
		of   time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}}
	for _, u := range units {
		if d >= u.of && d%u.of == 0 {
			return strconv.FormatInt(int64(d/u.of), 10) + u.name
		}
	}
	return strconv.FormatInt(max(1, d.Milliseconds()), 10) + "ms"
}
