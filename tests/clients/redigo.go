// Drives a server with redigo: redigo PORT [PASSWORD]. Fails at the first surprise.
package main

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
)

func main() {
	address := "127.0.0.1:" + os.Args[1]
	var password []string
	if len(os.Args) > 2 {
		password = os.Args[2:3]
	}
	client, err := connect(address, password...)
	check(err)
	defer client.Close()

	expect(do(client, "FLUSHALL"), "OK")
	expect(do(client, "PING"), "PONG")
	expect(do(client, "SET", "name", "Dylan"), "OK")
	expect(do(client, "GET", "name"), []byte("Dylan"))
	expect(do(client, "GET", "nobody"), nil)
	value := make([]byte, 4<<20)
	for at := range value {
		value[at] = byte(at)
	}
	expect(do(client, "SET", "by\x00tes\r\n", value), "OK")
	if !bytes.Equal(do(client, "GET", "by\x00tes\r\n").([]byte), value) {
		fail("other bytes than were stored")
	}
	expect(do(client, "MSET", "a", "1", "b", "2"), "OK")
	expect(do(client, "MGET", "a", "nobody", "b"), []interface{}{[]byte("1"), nil, []byte("2")})
	expect(do(client, "EXISTS", "a", "b", "nobody"), int64(2))
	expect(do(client, "DBSIZE"), int64(4))
	expect(do(client, "DEL", "a", "nobody"), int64(1))

	// An error is no value, and the next reply is that of the next command.
	refused(client, "ERR unknown command 'NONSENSE'", "NONSENSE", "a")
	expect(do(client, "GET", "name"), []byte("Dylan"))

	for number := 0; number < 1000; number++ {
		check(client.Send("SET", number, number))
		check(client.Send("GET", number))
		check(client.Send("GET", "nobody"))
	}
	check(client.Flush())
	for number := 0; number < 1000; number++ {
		for _, wanted := range []interface{}{"OK", []byte(fmt.Sprint(number)), nil} {
			saw, err := client.Receive()
			check(err)
			expect(saw, wanted)
		}
	}

	// A transaction fails and changes nothing, and the replies after it are in step.
	check(client.Send("MULTI"))
	check(client.Send("SET", "never", "x"))
	check(client.Send("DEL", "name"))
	refused(client, "EXECABORT Transaction discarded: ", "EXEC")
	expect(do(client, "MGET", "never", "name"), []interface{}{nil, []byte("Dylan")})

	if password != nil {
		stranger, err := connect(address)
		check(err)
		refused(stranger, "NOAUTH ", "GET", "name")
		if _, err := connect(address, "wrong"); err == nil || !strings.HasPrefix(err.Error(), "WRONGPASS ") {
			fail("a wrong password: ", err)
		}
	}
	fmt.Println("ok")
}

func connect(address string, password ...string) (redis.Conn, error) {
	limit := 10 * time.Second
	options := []redis.DialOption{
		redis.DialConnectTimeout(limit), redis.DialReadTimeout(limit), redis.DialWriteTimeout(limit),
	}
	if len(password) > 0 {
		options = append(options, redis.DialPassword(password[0]))
	}
	return redis.Dial("tcp", address, options...)
}

func do(client redis.Conn, command string, arguments ...interface{}) interface{} {
	reply, err := client.Do(command, arguments...)
	check(err)
	return reply
}

func refused(client redis.Conn, message, command string, arguments ...interface{}) {
	if reply, err := client.Do(command, arguments...); err == nil || !strings.HasPrefix(err.Error(), message) {
		fail(command, ": saw ", reply, err, " instead of ", message)
	}
}

func expect(saw, wanted interface{}) {
	if !reflect.DeepEqual(saw, wanted) {
		fail(fmt.Sprintf("saw %v instead of %v", saw, wanted))
	}
}

func check(err error) {
	if err != nil {
		fail(err)
	}
}

func fail(words ...interface{}) {
	fmt.Fprintln(os.Stderr, words...)
	os.Exit(1)
}
