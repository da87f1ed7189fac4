/* The baseline: a Lua module that makes KV reads and writes over a raw socket with the least work. It
 * returns the same values and metadata as consul_ffi, through the C API, but without timeouts, retries
 * and checks of the response.
 *
 *   local client = require("raw").connect(host, port)
 *   client:get(key)  ->  true, value, { index, known_leader, last_contact_ms, flags, lock_index,
 *                                       create_index, modify_index }
 *   client:put(key, value)  ->  true */
#include <arpa/inet.h>
#include <lauxlib.h>
#include <lua.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 16384 };

struct client {
    int socket;
    char address[64];
    char buffer[BUFFER];
};

static int connect_to(lua_State *L) {
    const char *host = luaL_checkstring(L, 1);
    int port = (int)luaL_checkinteger(L, 2);
    struct client *client = lua_newuserdata(L, sizeof *client);
    snprintf(client->address, sizeof client->address, "%s:%d", host, port);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    inet_pton(AF_INET, host, &address.sin_addr);
    client->socket = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(client->socket, (struct sockaddr *)&address, sizeof address) != 0)
        return luaL_error(L, "cannot connect to %s", client->address);
    int on = 1;
    setsockopt(client->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    luaL_getmetatable(L, "raw.client");
    lua_setmetatable(L, -2);
    return 1;
}

/* Sends the content of the buffer, reads the response into it and returns the body. */
static char *exchange(lua_State *L, struct client *client, size_t length) {
    if (send(client->socket, client->buffer, length, MSG_NOSIGNAL) != (ssize_t)length)
        luaL_error(L, "the connection is closed");
    size_t have = 0;
    for (;;) {
        ssize_t got = recv(client->socket, client->buffer + have, BUFFER - 1 - have, 0);
        if (got <= 0) luaL_error(L, "the connection is closed");
        have += (size_t)got;
        client->buffer[have] = 0;
        char *body = strstr(client->buffer, "\r\n\r\n");
        if (body == NULL) continue;
        body += 4;
        const char *length = strcasestr(client->buffer, "\r\nContent-Length:");
        if (length != NULL && have >= (size_t)(body - client->buffer) + strtoul(length + 17, NULL, 10))
            return body;
    }
}

static size_t decode_base64(char *to, const char *from) {
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static unsigned char value[256];
    if (value['B'] == 0)
        for (int i = 0; i < 64; i++) value[(unsigned char)digits[i]] = (unsigned char)i;
    char *at = to;
    unsigned bits = 0;
    int count = 0;
    for (; *from != '"' && *from != '='; from++) {
        bits = bits << 6 | value[(unsigned char)*from];
        count += 6;
        if (count >= 8) *at++ = (char)(bits >> (count -= 8));
    }
    return (size_t)(at - to);
}

/* Sets a field of the table on top of the stack to the number after a text. */
static void number(lua_State *L, const char *field, const char *in, const char *after) {
    const char *found = strstr(in, after);
    if (found == NULL) luaL_error(L, "no %s in %s", after, in);
    lua_pushnumber(L, (lua_Number)strtoull(found + strlen(after), NULL, 10));
    lua_setfield(L, -2, field);
}

static int get(lua_State *L) {
    struct client *client = luaL_checkudata(L, 1, "raw.client");
    const char *key = luaL_checkstring(L, 2);
    int length = snprintf(client->buffer, BUFFER, "GET /v1/kv/%s HTTP/1.1\r\nHost: %s\r\n\r\n", key,
                          client->address);
    char *body = exchange(L, client, (size_t)length);
    /* A server in dev mode formats its JSON with spaces. */
    char *value = strstr(body, "\"Value\":");
    value = value == NULL ? NULL : strchr(value + 8, '"');
    if (strncmp(client->buffer + 9, "200", 3) != 0 || value == NULL)
        return luaL_error(L, "unexpected answer: %s", client->buffer);
    lua_createtable(L, 0, 7);
    number(L, "index", client->buffer, "X-Consul-Index: ");
    lua_pushboolean(L, strstr(client->buffer, "X-Consul-Knownleader: true") != NULL);
    lua_setfield(L, -2, "known_leader");
    number(L, "last_contact_ms", client->buffer, "X-Consul-Lastcontact: ");
    number(L, "lock_index", body, "\"LockIndex\":");
    number(L, "flags", body, "\"Flags\":");
    number(L, "create_index", body, "\"CreateIndex\":");
    number(L, "modify_index", body, "\"ModifyIndex\":");
    lua_pushboolean(L, 1);
    value++;
    lua_pushlstring(L, value, decode_base64(value, value));
    lua_pushvalue(L, -3);
    return 3;
}

static int put(lua_State *L) {
    struct client *client = luaL_checkudata(L, 1, "raw.client");
    const char *key = luaL_checkstring(L, 2);
    size_t size;
    const char *value = luaL_checklstring(L, 3, &size);
    int length = snprintf(client->buffer, BUFFER,
                          "PUT /v1/kv/%s HTTP/1.1\r\nHost: %s\r\nContent-Length: %zu\r\n\r\n", key,
                          client->address, size);
    memcpy(client->buffer + length, value, size);
    char *body = exchange(L, client, (size_t)length + size);
    if (strncmp(body, "true", 4) != 0) return luaL_error(L, "unexpected answer: %s", body);
    lua_pushboolean(L, 1);
    return 1;
}

int luaopen_raw(lua_State *L) {
    luaL_newmetatable(L, "raw.client");
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, get);
    lua_setfield(L, -2, "get");
    lua_pushcfunction(L, put);
    lua_setfield(L, -2, "put");
    lua_setfield(L, -2, "__index");
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, connect_to);
    lua_setfield(L, -2, "connect");
    return 1;
}
