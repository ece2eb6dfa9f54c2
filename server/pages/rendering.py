"""What the pages say, in Russian and English, and how they are rendered."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from storage.orders.workflow import Status

LANGUAGES = ("en", "ru")

SAFE_PAGE: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:;"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}

STATUS_NAMES = {
    "en": {status: status.value.replace("_", " ").capitalize() for status in Status},
    "ru": dict(
        zip(
            Status,
            (
                "Создан",
                "Модель загружена",
                "Оформлен",
                "Цена рассчитана",
                "Подтверждён",
                "В работе",
                "Изготовлен",
                "Упаковка",
                "Отправлен",
                "Закрыт",
                "Отменён",
            ),
            strict=True,
        )
    ),
}

LINE_NAMES = {
    "en": {
        "metal": "Metal",
        "pattern": "Pattern",
        "casting": "Casting",
        "finish": "Finish",
        "plating": "Plating",
        "bodies": "Further bodies",
        "setup": "Setup",
        "quantity_break": "Quantity break",
        "minimum": "Up to the minimum",
        "markup": "Markup",
        "rush": "Rush",
        "stones": "Stones",
        "setting": "Setting stones",
    },
    "ru": {
        "metal": "Металл",
        "pattern": "Восковка",
        "casting": "Литьё",
        "finish": "Обработка",
        "plating": "Покрытие",
        "bodies": "Дополнительные детали",
        "setup": "Подготовка",
        "quantity_break": "Скидка за количество",
        "minimum": "До минимальной суммы",
        "markup": "Наценка",
        "rush": "Срочность",
        "stones": "Камни",
        "setting": "Закрепка камней",
    },
}

FILTER_NAMES = {
    "en": {
        "operator": "Operator",
        "customer": "Customer",
        "number": "Number",
        "reference": "Reference",
        "q": "Search",
        "created_from": "Created from",
        "created_to": "Created before",
        "due_from": "Due from",
        "due_to": "Due before",
    },
    "ru": {
        "operator": "Оператор",
        "customer": "Клиент",
        "number": "Номер",
        "reference": "Внешний номер",
        "q": "Поиск",
        "created_from": "Создан с",
        "created_to": "Создан до",
        "due_from": "Срок с",
        "due_to": "Срок до",
    },
}

TEXTS = {
    "en": {
        "title": "Facet",
        "newest": "Newest orders",
        "all": "All",
        "number": "Number",
        "status": "Status",
        "since": "Since",
        "customer": "Customer",
        "operator": "Operator",
        "material": "Material",
        "price": "Price, gross",
        "none": "No orders.",
        "price_title": "Price a model",
        "file": "Model (STL, OBJ, PLY, OFF, GLB, 3MF)",
        "units": "Units",
        "as_in_file": "as in the file",
        "quantity": "Quantity",
        "leave_out": "No metal",
        "leave_out_hint": "Numbers of the bodies that are no metal, such as stones: 2,5",
        "bodies": "Bodies in the file",
        "body": "Body",
        "size": "Size, mm",
        "left_out": "no metal",
        "verification": "Second opinion",
        "verification_pending": "not yet",
        "verification_agreed": "the same",
        "verification_differs": "differs",
        "verification_not_possible": "not possible",
        "calculate": "Calculate",
        "result": "Result",
        "net": "Net",
        "vat": "VAT",
        "gross": "Gross",
        "mass": "Mass, g",
        "volume": "Volume, mm³",
        "valid_until": "Valid until",
        "manual": "A person has to price this model.",
        "provisional": "Provisional: a person should look at this model.",
        "token": "Access token",
        "login": "Log in",
        "logout": "Log out",
        "wrong_token": "This token is not known here.",
        "docs": "API documentation",
        "your_order": "Your order",
        "expired": "This link is not valid, or no longer.",
        "next": "Next page",
        "problem": "This did not work",
        "choose_file": "Choose a file.",
        "search": "Search",
        "find": "Find",
        "home": "To the start page",
        "request_id": "Request",
    },
    "ru": {
        "title": "Facet",
        "newest": "Новые заказы",
        "all": "Все",
        "number": "Номер",
        "status": "Статус",
        "since": "С",
        "customer": "Клиент",
        "operator": "Оператор",
        "material": "Материал",
        "price": "Цена с НДС",
        "none": "Заказов нет.",
        "price_title": "Рассчитать цену модели",
        "file": "Модель (STL, OBJ, PLY, OFF, GLB, 3MF)",
        "units": "Единицы",
        "as_in_file": "как в файле",
        "quantity": "Количество",
        "leave_out": "Не металл",
        "leave_out_hint": "Номера тел, которые не из металла (например, камни): 2,5",
        "bodies": "Тела в файле",
        "body": "Тело",
        "size": "Размер, мм",
        "left_out": "не металл",
        "verification": "Второе мнение",
        "verification_pending": "ещё нет",
        "verification_agreed": "совпадает",
        "verification_differs": "расходится",
        "verification_not_possible": "невозможно",
        "calculate": "Рассчитать",
        "result": "Результат",
        "net": "Без НДС",
        "vat": "НДС",
        "gross": "С НДС",
        "mass": "Масса, г",
        "volume": "Объём, мм³",
        "valid_until": "Действует до",
        "manual": "Цену этой модели должен определить человек.",
        "provisional": "Предварительно: модель должен посмотреть человек.",
        "token": "Токен доступа",
        "login": "Войти",
        "logout": "Выйти",
        "wrong_token": "Такой токен здесь неизвестен.",
        "docs": "Документация API",
        "your_order": "Ваш заказ",
        "expired": "Ссылка недействительна или устарела.",
        "next": "Следующая страница",
        "problem": "Не получилось",
        "choose_file": "Выберите файл.",
        "search": "Поиск",
        "find": "Найти",
        "home": "На главную",
        "request_id": "Запрос",
    },
}


def templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def language_of(request: web.Request) -> str:
    """`?lang=`, else the first language of Accept-Language that there is, else English."""
    asked = request.query.get("lang", "")
    if asked in LANGUAGES:
        return asked
    for item in request.headers.get("Accept-Language", "").split(","):
        tag = item.partition(";")[0].strip()[:2].lower()
        if tag in LANGUAGES:
            return tag
    return LANGUAGES[0]


def render(
    environment: Environment, name: str, lang: str, *, http_status: int = 200, **values: Any
) -> web.Response:
    """A page; `values` are what its template shows."""
    page = environment.get_template(name).render(
        t=TEXTS[lang],
        lang=lang,
        status_names=STATUS_NAMES[lang],
        line_names=LINE_NAMES[lang],
        filter_names=FILTER_NAMES[lang],
        **values,
    )
    headers = {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", **SAFE_PAGE}
    return web.Response(body=page.encode(), status=http_status, headers=headers)
