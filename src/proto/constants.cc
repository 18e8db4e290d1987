#include "proto/constants.h"

namespace fdbnbd::proto {

const char* option_name(Option option) {
  switch (option) {
    case Option::export_name:
      return "NBD_OPT_EXPORT_NAME";
    case Option::abort:
      return "NBD_OPT_ABORT";
    case Option::list:
      return "NBD_OPT_LIST";
    case Option::peek_export:
      return "NBD_OPT_PEEK_EXPORT";
    case Option::starttls:
      return "NBD_OPT_STARTTLS";
    case Option::info:
      return "NBD_OPT_INFO";
    case Option::go:
      return "NBD_OPT_GO";
    case Option::structured_reply:
      return "NBD_OPT_STRUCTURED_REPLY";
    case Option::list_meta_context:
      return "NBD_OPT_LIST_META_CONTEXT";
    case Option::set_meta_context:
      return "NBD_OPT_SET_META_CONTEXT";
    case Option::extended_headers:
      return "NBD_OPT_EXTENDED_HEADERS";
  }
  return "unknown";
}

const char* command_name(Command command) {
  switch (command) {
    case Command::read:
      return "NBD_CMD_READ";
    case Command::write:
      return "NBD_CMD_WRITE";
    case Command::disc:
      return "NBD_CMD_DISC";
    case Command::flush:
      return "NBD_CMD_FLUSH";
    case Command::trim:
      return "NBD_CMD_TRIM";
    case Command::cache:
      return "NBD_CMD_CACHE";
    case Command::write_zeroes:
      return "NBD_CMD_WRITE_ZEROES";
    case Command::block_status:
      return "NBD_CMD_BLOCK_STATUS";
    case Command::resize:
      return "NBD_CMD_RESIZE";
  }
  return "unknown";
}

const char* error_name(NbdError error) {
  switch (error) {
    case NbdError::ok:
      return "ok";
    case NbdError::eperm:
      return "NBD_EPERM";
    case NbdError::eio:
      return "NBD_EIO";
    case NbdError::enomem:
      return "NBD_ENOMEM";
    case NbdError::einval:
      return "NBD_EINVAL";
    case NbdError::enospc:
      return "NBD_ENOSPC";
    case NbdError::eoverflow:
      return "NBD_EOVERFLOW";
    case NbdError::enotsup:
      return "NBD_ENOTSUP";
    case NbdError::eshutdown:
      return "NBD_ESHUTDOWN";
  }
  return "unknown";
}

}  // namespace fdbnbd::proto
