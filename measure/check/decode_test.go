package check

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"testing"
)

// decodedTypes are pointers to all that decode reads.
func decodedTypes() []any {
	return []any{
		new(dynamicData), new(gdtData), new(idtData), new(initData), new(kvmData), new(modulePointersData), new(modulesData),
		new(moduleTextData), new(msrsData), new(objectsData), new(pageTablesData), new(pointersData), new(processesData),
		new(registersData), new(region), new([]region), new(socketsData), new(syscallsData), new(textData),
		new([]xenDomain), new(xenHypercalls), new(xenIDT), new([]xenMSRs), new(xenPageTables), new(xenRegisters), new([]xenTable),
	}
}

// fill sets all fields that are written to something, and makes slices and maps of a
// number of elements.
func fill(t *testing.T, v reflect.Value, elements int, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString(fmt.Sprintf("<%d>&\"\\\n\u2028\x7f\u00e9\x00", *n))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(math.MaxInt64 >> (64 - v.Type().Bits()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(math.MaxUint64>>(64-v.Type().Bits()) - uint64(*n%2))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), elements, n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), elements, elements))
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i), elements, n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range elements {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(t, key, elements, n)
			fill(t, value, elements, n)
			v.SetMapIndex(key, value)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Anonymous || f.IsExported() {
				fill(t, v.Field(i), elements, n)
			}
		}
	default:
		t.Fatalf("a %v", v.Type())
	}
}

// What a scan writes is read as it was written, with every field set, with none, and
// with lists that are there and empty: encoding/json writes it, another package reads it.
func TestObservationsAreReadAsWritten(t *testing.T) {
	for _, zero := range decodedTypes() {
		typ := reflect.TypeOf(zero).Elem()
		full, empty, n := reflect.New(typ), reflect.New(typ), 0
		fill(t, full.Elem(), 2, &n)
		fill(t, empty.Elem(), 0, &n)
		for i, value := range []reflect.Value{full, empty, reflect.ValueOf(zero)} {
			written, err := json.Marshal(value.Elem().Interface()) // as observe does
			if err != nil {
				t.Fatal(err)
			}
			got := reflect.New(typ)
			if err := decode(written, got.Interface()); err != nil {
				t.Errorf("%v: %v\n%s", typ, err, written)
				continue
			}
			again, err := json.Marshal(got.Elem().Interface())
			if err != nil || !bytes.Equal(written, again) || i == 0 && !reflect.DeepEqual(got.Interface(), value.Interface()) {
				t.Errorf("%v: %v\nwritten  %s\nread     %s", typ, err, written, again)
			}
		}
	}
}
