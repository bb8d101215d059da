// Command hello is a page baked at build time and served at run time.
//
//	hello render FILE   writes the page
//	hello serve FILE    serves it on :8080
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"runtime"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: hello render|serve FILE")
	}
	switch file := os.Args[2]; os.Args[1] {
	case "render":
		page := fmt.Sprintf("Hello from a container built by teu (%s/%s)\n", runtime.GOOS, runtime.GOARCH)
		if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
			log.Fatal(err)
		}
	case "serve":
		http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) })
		log.Fatal(http.ListenAndServe(":8080", nil))
	}
}
