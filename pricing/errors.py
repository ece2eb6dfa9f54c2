"""The one exception of this package for input that cannot be used."""


class Refused(Exception):
    """The input was understood well enough to say why it cannot be priced.

    `code` is stable and snake_case, for programs; `detail` says what is wrong, with the numbers; `remedy`
    says what the person who sent the file can do about it.
    """

    def __init__(self, code: str, detail: str, remedy: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.remedy = remedy

    def __reduce__(self) -> tuple[type["Refused"], tuple[str, str, str]]:
        # Exception's own reduce would rebuild from the single message and lose the three parts.
        return Refused, (self.code, self.detail, self.remedy)
