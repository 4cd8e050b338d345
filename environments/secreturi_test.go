package environments

import "testing"

func TestAddressesOfSecrets(t *testing.T) {
	for text, want := range map[string]string{
		"shop: {password: \"vault:production/shop:dbPassword\"}": "values.yaml:1: shop.password",
		"shop:\n  db:\n    password: local:shop:db\n":            "values.yaml:3: shop.db.password",
		"shop:\n  urls:\n  - a\n  - \"https://u vault:p/q:r\"\n": "values.yaml:4: shop.urls.[1]",
		"shop:\n  url: db.svc.cluster.local:5432\n":              "",
		"shop:\n  image: local:5000/shop:1.0\n":                  "",
		"shop:\n  host: vault:8200\n":                            "",
	} {
		doc := newValuesDoc("values.yaml", []byte(text))
		got := ""
		if doc.fault != nil {
			got = doc.fault.Error()
		}
		if want != "" {
			want += ": is an address of a secret that jx replaces, which Sluice does not support; " +
				"expected the name of a Secret that is already in the cluster"
		}
		if got != want {
			t.Errorf("%q:\n%s\nwant %s", text, got, want)
		}
	}
}
