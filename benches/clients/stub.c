/* A fast HTTP server to measure clients against, with prepared responses.
 *
 *   stub FOLDER      serves FOLDER/kv, FOLDER/kv_list and FOLDER/health, prints its port, and ends at the
 *                    end of its standard input
 *
 * The beginning of a request selects the response; the key is ignored. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REQUEST_MAX = 16384, EVENTS = 256, CONNECTIONS = 1024 };

struct answer {
    char *bytes;
    size_t length;
};

struct connection {
    size_t have;
    char request[REQUEST_MAX];
};

static struct connection *connections[CONNECTIONS];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* With the headers of Consul 1.21. */
static struct answer answer_of(const char *body, size_t length) {
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nVary: Accept-Encoding\r\n"
        "X-Consul-Default-Acl-Policy: allow\r\nX-Consul-Index: 42\r\n"
        "X-Consul-Knownleader: true\r\nX-Consul-Lastcontact: 0\r\n"
        "Date: Fri, 20 Nov 2026 12:00:00 GMT\r\nContent-Length: %zu\r\n\r\n";
    struct answer answer;
    answer.bytes = malloc(sizeof head + 32 + length);
    if (answer.bytes == NULL) fail("malloc");
    answer.length = (size_t)sprintf(answer.bytes, head, length);
    memcpy(answer.bytes + answer.length, body, length);
    answer.length += length;
    return answer;
}

static struct answer answer_from(const char *folder, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (file == NULL) fail(path);
    fseek(file, 0, SEEK_END);
    size_t length = (size_t)ftell(file);
    rewind(file);
    char *body = malloc(length);
    if (body == NULL || fread(body, 1, length, file) != length) fail(path);
    fclose(file);
    struct answer answer = answer_of(body, length);
    free(body);
    return answer;
}

static int begins(const char *text, const char *with) {
    return strncmp(text, with, strlen(with)) == 0;
}

/* Answers all complete requests in the connection's buffer. Returns 0 when the connection has ended. */
static int serve(int socket, struct connection *c, const struct answer *kv,
                 const struct answer *kv_list, const struct answer *health,
                 const struct answer *put) {
    ssize_t got = recv(socket, c->request + c->have, REQUEST_MAX - 1 - c->have, 0);
    if (got <= 0) return 0;
    c->have += (size_t)got;
    for (;;) {
        c->request[c->have] = 0;
        char *end = strstr(c->request, "\r\n\r\n");
        if (end == NULL) return c->have < REQUEST_MAX - 1;
        size_t length = (size_t)(end + 4 - c->request);
        const struct answer *answer = kv;
        if (begins(c->request, "PUT")) {
            *end = 0;
            char *header = strcasestr(c->request, "\r\ncontent-length:");
            *end = '\r';
            if (header != NULL) length += strtoul(header + 17, NULL, 10);
            if (length > REQUEST_MAX - 1) return 0;
            if (c->have < length) return 1;
            answer = put;
        } else if (begins(c->request, "GET /v1/health/")) {
            answer = health;
        } else if (begins(c->request, "GET /v1/kv/list")) {
            answer = kv_list;
        }
        for (size_t sent = 0; sent < answer->length;) {
            ssize_t n =
                send(socket, answer->bytes + sent, answer->length - sent, MSG_NOSIGNAL);
            if (n <= 0) return 0;
            sent += (size_t)n;
        }
        c->have -= length;
        memmove(c->request, c->request + length, c->have);
        if (c->have == 0) return 1;
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: stub FOLDER\n");
        return 2;
    }
    struct answer kv = answer_from(argv[1], "kv");
    struct answer kv_list = answer_from(argv[1], "kv_list");
    struct answer health = answer_from(argv[1], "health");
    struct answer put = answer_of("true\n", 5);

    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) != 0 ||
        listen(listener, 1024) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) != 0)
        fail("listen");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    int events = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(events, EPOLL_CTL_ADD, listener, &event);
    event.data.fd = STDIN_FILENO;
    epoll_ctl(events, EPOLL_CTL_ADD, STDIN_FILENO, &event);
    for (;;) {
        struct epoll_event ready[EVENTS];
        int count = epoll_wait(events, ready, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int socket = ready[i].data.fd;
            if (socket == STDIN_FILENO) {
                return 0;
            } else if (socket == listener) {
                socket = accept(listener, NULL, NULL);
                if (socket < 0) continue;
                if (socket >= CONNECTIONS ||
                    (connections[socket] = calloc(1, sizeof(struct connection))) == NULL) {
                    close(socket);
                    continue;
                }
                int on = 1;
                setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                event.data.fd = socket;
                epoll_ctl(events, EPOLL_CTL_ADD, socket, &event);
            } else if (!serve(socket, connections[socket], &kv, &kv_list, &health, &put)) {
                close(socket);
                free(connections[socket]);
            }
        }
    }
}
