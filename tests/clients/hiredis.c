/* Drives a server with hiredis: hiredis PORT [PASSWORD]. Fails at the first surprise. */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(const char *what, const char *saw) {
    fprintf(stderr, "%s: %s\n", what, saw ? saw : "(nothing)");
    exit(1);
}

static redisContext *connect_to(int port, const char *password) {
    struct timeval limit = {10, 0};
    redisContext *context = redisConnectWithTimeout("127.0.0.1", port, limit);
    if (!context || context->err) fail("connect", context ? context->errstr : NULL);
    redisSetTimeout(context, limit);
    if (password) {
        redisReply *reply = redisCommand(context, "AUTH %s", password);
        if (!reply || reply->type != REDIS_REPLY_STATUS) fail("AUTH", reply ? reply->str : context->errstr);
        freeReplyObject(reply);
    }
    return context;
}

static redisReply *next(redisContext *context) {
    redisReply *reply = NULL;
    if (redisGetReply(context, (void **)&reply) != REDIS_OK) fail("reply", context->errstr);
    return reply;
}

/* Takes the next reply: of this type, and for texts beginning with this one. */
static void expect(redisContext *context, int type, const char *text) {
    redisReply *reply = next(context);
    int is_right = reply->type == type;
    if (is_right && text) is_right = reply->str && strncmp(reply->str, text, strlen(text)) == 0;
    if (!is_right) fail(text ? text : "a reply of another type", reply->str);
    freeReplyObject(reply);
}

static void expect_number(redisContext *context, long long number) {
    redisReply *reply = next(context);
    if (reply->type != REDIS_REPLY_INTEGER || reply->integer != number) fail("a number", reply->str);
    freeReplyObject(reply);
}

static void expect_bytes(redisContext *context, const char *bytes, size_t len) {
    redisReply *reply = next(context);
    if (reply->type != REDIS_REPLY_STRING || (size_t)reply->len != len || memcmp(reply->str, bytes, len) != 0)
        fail("other bytes", reply->type == REDIS_REPLY_ERROR ? reply->str : "a value");
    freeReplyObject(reply);
}

int main(int count, char **arguments) {
    int port = atoi(arguments[1]);
    const char *password = count > 2 ? arguments[2] : NULL;
    redisContext *context = connect_to(port, password);

    redisAppendCommand(context, "FLUSHALL");
    expect(context, REDIS_REPLY_STATUS, "OK");
    redisAppendCommand(context, "SET name %s", "Dylan");
    expect(context, REDIS_REPLY_STATUS, "OK");
    redisAppendCommand(context, "GET name");
    expect_bytes(context, "Dylan", 5);
    redisAppendCommand(context, "GET nobody");
    expect(context, REDIS_REPLY_NIL, NULL);
    redisAppendCommand(context, "NONSENSE a");
    expect(context, REDIS_REPLY_ERROR, "ERR unknown command 'NONSENSE'");
    redisAppendCommand(context, "GET");
    expect(context, REDIS_REPLY_ERROR, "ERR wrong number of arguments for 'get' command");

    /* Every byte, many times: 8 MiB. */
    size_t len = 8 << 20;
    char *large = malloc(len);
    if (!large) fail("malloc", NULL);
    for (size_t at = 0; at < len; at++) large[at] = (char)at;
    redisAppendCommand(context, "SET %b %b", "by\0tes\r\n", (size_t)8, large, len);
    expect(context, REDIS_REPLY_STATUS, "OK");
    redisAppendCommand(context, "GET %b", "by\0tes\r\n", (size_t)8);
    expect_bytes(context, large, len);
    free(large);

    redisAppendCommand(context, "MGET name nobody");
    redisReply *reply = next(context);
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 || strcmp(reply->element[0]->str, "Dylan") != 0 ||
        reply->element[1]->type != REDIS_REPLY_NIL)
        fail("MGET", reply->str);
    freeReplyObject(reply);

    for (int number = 0; number < 1000; number++) {
        redisAppendCommand(context, "SET key:%d %d", number, number);
        redisAppendCommand(context, "DEL key:%d nobody", number);
    }
    for (int number = 0; number < 1000; number++) {
        expect(context, REDIS_REPLY_STATUS, "OK");
        expect_number(context, 1);
    }

    redisAppendCommand(context, "MULTI");
    redisAppendCommand(context, "DEL name");
    redisAppendCommand(context, "EXEC");
    redisAppendCommand(context, "EXISTS name");
    expect(context, REDIS_REPLY_STATUS, "OK");
    expect(context, REDIS_REPLY_STATUS, "QUEUED");
    expect(context, REDIS_REPLY_ERROR, "EXECABORT Transaction discarded: ");
    expect_number(context, 1);

    if (password) {
        redisContext *stranger = connect_to(port, NULL);
        redisAppendCommand(stranger, "GET name");
        expect(stranger, REDIS_REPLY_ERROR, "NOAUTH ");
        redisAppendCommand(stranger, "AUTH wrong");
        expect(stranger, REDIS_REPLY_ERROR, "WRONGPASS ");
        redisFree(stranger);
    }
    redisFree(context);
    puts("ok");
    return 0;
}
