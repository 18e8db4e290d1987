#include "attach/netlink.h"

#include <fmt/format.h>
#include <linux/nbd-netlink.h>
#include <netlink/errno.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <optional>
#include <system_error>
#include <utility>

namespace fdbnbd::attach {

namespace {

constexpr char kNoClient[] = "this kernel has no NBD client at the moment; load it: modprobe nbd";

struct CallbackDeleter {
  void operator()(nl_cb* callback) const { nl_cb_put(callback); }
};

// What exchange() learns.
struct Answer {
  bool done = false;
  int error = 0;  // an errno
  std::optional<uint32_t> index;
};

int on_valid(nl_msg* message, void* argument) {
  auto& answer = *static_cast<Answer*>(argument);
  if (const auto index = read_connected(nlmsg_hdr(message))) answer.index = index;
  return NL_OK;
}

int on_acknowledged(nl_msg* /*message*/, void* argument) {
  static_cast<Answer*>(argument)->done = true;
  return NL_STOP;
}

int on_error(sockaddr_nl* /*from*/, nlmsgerr* error, void* argument) {
  auto& answer = *static_cast<Answer*>(argument);
  answer.done = true;
  answer.error = -error->error;
  return NL_STOP;
}

struct DeathCount {
  uint32_t index = 0;
  uint32_t count = 0;
};

int on_event(nl_msg* message, void* argument) {
  auto& deaths = *static_cast<DeathCount*>(argument);
  if (read_link_dead(nlmsg_hdr(message)) == deaths.index) ++deaths.count;
  return NL_OK;
}

Errc errc_of(int error) {
  switch (error) {
    case EBUSY:
      return Errc::busy;
    case EPERM:
    case EACCES:
      return Errc::permission;
    default:
      return Errc::io;
  }
}

Error library_error(const char* what, int code) {
  return {Errc::io, fmt::format("{}: {}", what, nl_geterror(code))};
}

}  // namespace

void KernelNbd::SocketDeleter::operator()(nl_sock* socket) const {
  nl_socket_free(socket);
}

KernelNbd::KernelNbd(Socket requests, Socket events, int family)
    : requests_(std::move(requests)), events_(std::move(events)), family_(family) {}

Result<KernelNbd> KernelNbd::open() {
  Socket requests(nl_socket_alloc());
  Socket events(nl_socket_alloc());
  if (!requests || !events) return fail(Errc::io, "netlink: out of memory");
  for (nl_sock* const socket : {requests.get(), events.get()}) {
    if (const int code = genl_connect(socket); code != 0)
      return tl::unexpected(library_error("cannot speak to the kernel over netlink", code));
  }
  const int family = genl_ctrl_resolve(requests.get(), NBD_GENL_FAMILY_NAME);
  if (family < 0) return fail(Errc::not_supported, kNoClient);
  const int group = genl_ctrl_resolve_grp(requests.get(), NBD_GENL_FAMILY_NAME, NBD_GENL_MCAST_GROUP_NAME);
  if (group < 0) return fail(Errc::not_supported, kNoClient);
  if (const int code = nl_socket_add_membership(events.get(), group); code != 0)
    return tl::unexpected(library_error("cannot listen to the kernel's NBD client", code));
  if (const int code = nl_socket_set_nonblocking(events.get()); code != 0)
    return tl::unexpected(library_error("cannot listen to the kernel's NBD client", code));
  return KernelNbd(std::move(requests), std::move(events), family);
}

Result<std::optional<uint32_t>> KernelNbd::exchange(const Message& message, const char* what) {
  const std::unique_ptr<nl_cb, CallbackDeleter> callback(nl_cb_alloc(NL_CB_DEFAULT));
  if (!callback) return fail(Errc::io, "netlink: out of memory");
  Answer answer;
  nl_cb_set(callback.get(), NL_CB_VALID, NL_CB_CUSTOM, on_valid, &answer);
  nl_cb_set(callback.get(), NL_CB_ACK, NL_CB_CUSTOM, on_acknowledged, &answer);
  nl_cb_err(callback.get(), NL_CB_CUSTOM, on_error, &answer);
  if (const int code = nl_send_auto(requests_.get(), message.get()); code < 0)
    return tl::unexpected(library_error(what, code));
  while (!answer.done) {
    const int code = nl_recvmsgs(requests_.get(), callback.get());
    if (code < 0 && !answer.done) return tl::unexpected(library_error(what, code));
  }
  if (answer.error != 0) {
    return fail(errc_of(answer.error), fmt::format("the kernel's NBD client refuses to {}: {}", what,
                                                   std::generic_category().message(answer.error)));
  }
  return answer.index;
}

Result<uint32_t> KernelNbd::connect(const ConnectRequest& request) {
  ASSIGN_OR_RETURN(const std::optional<uint32_t> index,
                   exchange(connect_message(family_, request), "attach"));
  if (index) return *index;
  if (request.index) return *request.index;
  return fail(Errc::protocol, "the kernel's NBD client does not say which device it has attached");
}

Result<void> KernelNbd::reconfigure(const ReconfigureRequest& request) {
  RETURN_IF_ERROR(exchange(reconfigure_message(family_, request), "change the device"));
  return {};
}

Result<void> KernelNbd::disconnect(uint32_t index) {
  RETURN_IF_ERROR(exchange(disconnect_message(family_, index), "detach"));
  return {};
}

int KernelNbd::events_descriptor() const {
  return nl_socket_get_fd(events_.get());
}

LinkDeaths KernelNbd::take_link_deaths(uint32_t index) {
  const std::unique_ptr<nl_cb, CallbackDeleter> callback(nl_cb_alloc(NL_CB_DEFAULT));
  LinkDeaths result;
  if (!callback) return {.count = 0, .some_missed = true};
  DeathCount deaths{.index = index};
  nl_cb_set(callback.get(), NL_CB_VALID, NL_CB_CUSTOM, on_event, &deaths);
  // The sequence numbers of what nobody asked for mean nothing.
  nl_cb_set(
      callback.get(), NL_CB_SEQ_CHECK, NL_CB_CUSTOM, [](nl_msg*, void*) -> int { return NL_OK; }, nullptr);
  for (;;) {
    const int code = nl_recvmsgs(events_.get(), callback.get());
    if (code >= 0 || code == -NLE_INTR) continue;
    // ENOBUFS, which the library calls out of memory.
    if (code == -NLE_NOMEM) {
      result.some_missed = true;
      continue;
    }
    break;
  }
  result.count = deaths.count;
  return result;
}

bool was_taken(int socket) {
  timeval timeout{};
  socklen_t length = sizeof timeout;
  return ::getsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &timeout, &length) == 0 &&
         (timeout.tv_sec != 0 || timeout.tv_usec != 0);
}

}  // namespace fdbnbd::attach
