// Attaches an NBD export to /dev/nbdINDEX with a dead-connection time-out, and gives an attached device fresh
// sockets after its server came back: what nbd-client 3.24 cannot do. Uses the kernel's generic netlink
// family "nbd". TIMEOUT_S is how long the kernel waits for a reply before it sends the request again; it also
// bounds how long after "reconfigure" it sends what was in flight on a dead connection. 0 means 30 s for the
// latter, for ever for the former.
//
//   nbd-netlink connect     INDEX ADDRESS PORT EXPORT CONNECTIONS DEAD_TIMEOUT_S TIMEOUT_S
//   nbd-netlink reconfigure INDEX ADDRESS PORT EXPORT CONNECTIONS
//
// Exit status 0 done, 1 failed (the reason is on stderr), 2 usage.
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { kMaxConnections = 16, kMessageCapacity = 4096, kSectorBytes = 512 };

static const uint64_t kOptionMagic = 0x49484156454f5054;
static const uint64_t kOptionReplyMagic = 0x3e889045565a9;
enum { kOptGo = 7, kRepAck = 1, kRepInfo = 3, kInfoExport = 0, kFlagFixedNewstyle = 1, kFlagNoZeroes = 2 };

static void die(const char* what, int error) {
  fprintf(stderr, "nbd-netlink: %s%s%s\n", what, error != 0 ? ": " : "", error != 0 ? strerror(error) : "");
  exit(1);
}

static void write_all(int fd, const void* data, size_t length_bytes) {
  const char* next = data;
  while (length_bytes > 0) {
    ssize_t done = write(fd, next, length_bytes);
    if (done <= 0) die("write to the server", errno);
    next += done;
    length_bytes -= (size_t)done;
  }
}

static void read_all(int fd, void* data, size_t length_bytes) {
  char* next = data;
  while (length_bytes > 0) {
    ssize_t done = read(fd, next, length_bytes);
    if (done < 0) die("read from the server", errno);
    if (done == 0) die("the server closed the connection during the handshake", 0);
    next += done;
    length_bytes -= (size_t)done;
  }
}

// A connected socket past the handshake; sets the export's size and transmission flags.
static int open_export(const char* address, const char* port, const char* name, uint64_t* size_bytes,
                       uint16_t* flags) {
  struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  if (inet_pton(AF_INET, address, &peer.sin_addr) != 1) die("not an IPv4 address", 0);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0) die("socket", errno);
  if (connect(fd, (struct sockaddr*)&peer, sizeof peer) != 0) die("connect", errno);
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);

  struct __attribute__((packed)) {
    char magic[8];
    uint64_t option_magic;
    uint16_t flags;
  } greeting;
  read_all(fd, &greeting, sizeof greeting);
  if (memcmp(greeting.magic, "NBDMAGIC", 8) != 0 || be64toh(greeting.option_magic) != kOptionMagic) {
    die("the server does not greet as fixed newstyle NBD", 0);
  }
  uint32_t client_flags = htonl(ntohs(greeting.flags) & (kFlagFixedNewstyle | kFlagNoZeroes));
  write_all(fd, &client_flags, sizeof client_flags);

  struct __attribute__((packed)) {
    uint64_t magic;
    uint32_t option;
    uint32_t length_bytes;
    uint32_t name_length_bytes;
  } go = {htobe64(kOptionMagic), htonl(kOptGo), htonl((uint32_t)strlen(name) + 6),
          htonl((uint32_t)strlen(name))};
  uint16_t info_count = 0;
  write_all(fd, &go, sizeof go);
  write_all(fd, name, strlen(name));
  write_all(fd, &info_count, sizeof info_count);

  for (;;) {
    struct __attribute__((packed)) {
      uint64_t magic;
      uint32_t option;
      uint32_t type;
      uint32_t length_bytes;
    } reply;
    read_all(fd, &reply, sizeof reply);
    uint32_t length_bytes = ntohl(reply.length_bytes);
    char payload[4096];
    if (be64toh(reply.magic) != kOptionReplyMagic || length_bytes > sizeof payload)
      die("bad option reply", 0);
    read_all(fd, payload, length_bytes);
    uint32_t type = ntohl(reply.type);
    if (type == kRepAck) return fd;
    if (type != kRepInfo) {
      fprintf(stderr, "nbd-netlink: the server refuses '%s': error %#x %.*s\n", name, type, (int)length_bytes,
              payload);
      exit(1);
    }
    uint16_t info;
    memcpy(&info, payload, sizeof info);
    if (ntohs(info) == kInfoExport && length_bytes == 12) {
      memcpy(size_bytes, payload + 2, sizeof *size_bytes);
      *size_bytes = be64toh(*size_bytes);
      memcpy(flags, payload + 10, sizeof *flags);
      *flags = ntohs(*flags);
    }
  }
}

struct Message {
  struct nlmsghdr header;
  struct genlmsghdr generic;
  char attributes[kMessageCapacity];
};

static void message_start(struct Message* message, uint16_t family, uint8_t command) {
  memset(message, 0, sizeof *message);
  message->header.nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN);
  message->header.nlmsg_type = family;
  message->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  message->generic.cmd = command;
  message->generic.version = 1;
}

static struct nlattr* put(struct Message* message, uint16_t type, const void* data, size_t length_bytes) {
  struct nlattr* attribute = (struct nlattr*)((char*)message + message->header.nlmsg_len);
  attribute->nla_type = type;
  attribute->nla_len = (uint16_t)(NLA_HDRLEN + length_bytes);
  if (length_bytes > 0) memcpy((char*)attribute + NLA_HDRLEN, data, length_bytes);
  message->header.nlmsg_len += NLA_ALIGN(attribute->nla_len);
  return attribute;
}

static void put_u32(struct Message* message, uint16_t type, uint32_t value) {
  put(message, type, &value, sizeof value);
}
static void put_u64(struct Message* message, uint16_t type, uint64_t value) {
  put(message, type, &value, sizeof value);
}

static void nest_end(struct Message* message, struct nlattr* nest) {
  nest->nla_len = (uint16_t)((char*)message + message->header.nlmsg_len - (char*)nest);
}

// Sends the message and reads until its acknowledgement. Copies the first message that is not one to
// `answer`. Returns 0 or the kernel's errno.
static int exchange(int netlink, struct Message* message, struct Message* answer) {
  if (send(netlink, message, message->header.nlmsg_len, 0) < 0) die("netlink send", errno);
  for (;;) {
    char buffer[2 * kMessageCapacity] __attribute__((aligned(NLMSG_ALIGNTO)));
    ssize_t received = recv(netlink, buffer, sizeof buffer, 0);
    if (received < 0) die("netlink receive", errno);
    for (char* next = buffer; next + NLMSG_HDRLEN <= buffer + received;) {
      struct nlmsghdr* header = (struct nlmsghdr*)next;
      if (header->nlmsg_len < NLMSG_HDRLEN || next + header->nlmsg_len > buffer + received) {
        die("bad netlink message", 0);
      }
      next += NLMSG_ALIGN(header->nlmsg_len);
      if (header->nlmsg_type == NLMSG_ERROR) return -((struct nlmsgerr*)NLMSG_DATA(header))->error;
      if (answer != NULL && header->nlmsg_len <= sizeof *answer) memcpy(answer, header, header->nlmsg_len);
    }
  }
}

static uint16_t nbd_family(int netlink) {
  struct Message message;
  struct Message answer = {0};
  message_start(&message, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
  put(&message, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof NBD_GENL_FAMILY_NAME);
  int error = exchange(netlink, &message, &answer);
  if (error != 0) die("no netlink family nbd", error);
  char* end = (char*)&answer + answer.header.nlmsg_len;
  for (char* next = answer.attributes; next + NLA_HDRLEN <= end;) {
    struct nlattr* attribute = (struct nlattr*)next;
    if (attribute->nla_type == CTRL_ATTR_FAMILY_ID) return *(uint16_t*)(next + NLA_HDRLEN);
    if (attribute->nla_len < NLA_HDRLEN) break;
    next += NLA_ALIGN(attribute->nla_len);
  }
  die("the answer has no family number", 0);
  return 0;
}

int main(int argc, char** argv) {
  int connecting = argc == 9 && strcmp(argv[1], "connect") == 0;
  int reconfiguring = argc == 7 && strcmp(argv[1], "reconfigure") == 0;
  int connection_count = connecting || reconfiguring ? atoi(argv[6]) : 0;
  if (connection_count < 1 || connection_count > kMaxConnections) {
    fprintf(stderr,
            "usage: nbd-netlink connect INDEX ADDRESS PORT EXPORT CONNECTIONS DEAD_TIMEOUT_S TIMEOUT_S\n"
            "       nbd-netlink reconfigure INDEX ADDRESS PORT EXPORT CONNECTIONS\n");
    return 2;
  }
  uint64_t size_bytes = 0;
  uint16_t flags = 0;
  int sockets[kMaxConnections];
  for (int i = 0; i < connection_count; ++i)
    sockets[i] = open_export(argv[3], argv[4], argv[5], &size_bytes, &flags);

  int netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC);
  if (netlink < 0) die("netlink socket", errno);
  struct Message message;
  message_start(&message, nbd_family(netlink), connecting ? NBD_CMD_CONNECT : NBD_CMD_RECONFIGURE);
  put_u32(&message, NBD_ATTR_INDEX, (uint32_t)atoi(argv[2]));
  if (connecting) {
    put_u64(&message, NBD_ATTR_SIZE_BYTES, size_bytes);
    put_u64(&message, NBD_ATTR_BLOCK_SIZE_BYTES, kSectorBytes);
    put_u64(&message, NBD_ATTR_SERVER_FLAGS, flags);
    put_u64(&message, NBD_ATTR_DEAD_CONN_TIMEOUT, strtoull(argv[7], NULL, 10));
    put_u64(&message, NBD_ATTR_TIMEOUT, strtoull(argv[8], NULL, 10));
  }
  struct nlattr* list = put(&message, NBD_ATTR_SOCKETS, NULL, 0);
  for (int i = 0; i < connection_count; ++i) {
    struct nlattr* item = put(&message, NBD_SOCK_ITEM, NULL, 0);
    put_u32(&message, NBD_SOCK_FD, (uint32_t)sockets[i]);
    nest_end(&message, item);
  }
  nest_end(&message, list);
  int error = exchange(netlink, &message, NULL);
  if (error != 0) die(argv[1], error);
  return 0;
}
