"""The record classes of MT5Manager: which fields each has, so that a slip of the pen is an error here as well as there."""

from functools import cache
from typing import Any

FIELDS = {
    "MTRequest": """Action Comment Digits ExternalAccount Flags Group ID IDClient IP Login Order OrderExternalID PartyID Position
        PositionBy PositionByExternalID PositionExternalID PriceDeviation PriceDeviationBottom PriceDeviationTop
        PriceOrder PriceSL PriceTP PriceTrigger Reason ResultComment ResultDeal ResultDealer ResultDealerAsk
        ResultDealerBid ResultDealerLast ResultMarketAsk ResultMarketBid ResultMarketLast ResultOrder ResultPrice
        ResultRetcode ResultVolume ResultVolumeExt SourceLogin SpreadDiff SpreadDiffBalance Symbol SymbolOriginal
        TimeExpiration Type TypeFill TypeTime Volume VolumeCurrent VolumeCurrentExt VolumeExt""",
    "MTPosition": """Action ActionGateway ActivationFlags ActivationMode ActivationPrice ActivationTime Comment ContractSize
        Dealer Digits DigitsCurrency ExpertID ExpertPositionID ExternalID Login ModificationFlags ObsoleteValue Position
        PriceCurrent PriceGateway PriceOpen PriceSL PriceTP Profit RateMargin RateProfit Reason Storage Symbol
        TimeCreate TimeCreateMsc TimeUpdate TimeUpdateMsc Volume VolumeExt VolumeGatewayExt""",
    "MTDeal": """Action ActionGateway Comment Commission ContractSize Deal Dealer Digits DigitsCurrency Entry ExpertID
        ExternalID Fee Flags Gateway Login MarketAsk MarketBid MarketLast ModificationFlags ObsoleteValue Order
        PartyID PositionID Price PriceGateway PricePosition PriceSL PriceTP Profit ProfitRaw RateMargin RateProfit
        Reason Storage Symbol TickSize TickValue Time TimeMsc Value Volume VolumeClosed VolumeClosedExt VolumeExt
        VolumeGatewayExt""",
    "MTOrder": """ActivationFlags ActivationMode ActivationPrice ActivationTime Comment ContractSize Dealer Digits
        DigitsCurrency ExpertID ExternalID Login ModificationFlags Order PartyID PositionByID PositionID PriceCurrent
        PriceOrder PriceSL PriceTP PriceTrigger RateMargin Reason State Symbol TimeDone TimeDoneMsc TimeExpiration
        TimeSetup TimeSetupMsc Type TypeFill TypeTime VolumeCurrent VolumeCurrentExt VolumeInitial VolumeInitialExt""",
    "MTAccount": """Assets Balance BlockedCommission BlockedProfit Credit CurrencyDigits Equity Floating Liabilities Login Margin
        MarginFree MarginInitial MarginLevel MarginLeverage MarginMaintenance ObsoleteValue Profit SOActivation
        SOEquity SOLevel SOMargin SOTime Storage""",
    "MTUser": "Login Name Group Leverage Rights Balance Credit Company Comment LimitOrders",
    "MTConGroup": "Group Currency CurrencyDigits Company MarginMode TradeFlags LimitOrders LimitPositions",
    "MTConSymbol": """Symbol Digits Point TickSize TickValue ContractSize StopsLevel FreezeLevel TradeMode ExecMode FillFlags
        CalcMode CurrencyBase CurrencyProfit CurrencyMargin VolumeMin VolumeMinExt VolumeStep VolumeStepExt VolumeMax
        VolumeMaxExt VolumeLimit VolumeLimitExt""",
    "MTTickShort": "ask bid datetime datetime_msc flags last volume volume_ext",
}
"""The first five whole; of the others what is read."""
TEXTS = {"Comment", "Symbol", "Group", "ResultComment", "Name", "Company", "Currency", "ExternalID"}


class Record:
    """One record: every field from the start, none besides."""

    __slots__ = ("__dict__",)
    fields: tuple[str, ...] = ()

    def __init__(self, manager: Any) -> None:
        for name in self.fields:
            self.__dict__[name] = "" if name in TEXTS else 0

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.fields:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self.__dict__[name] = value

    def __copy__(self) -> "Record":
        copied = type(self)(None)
        copied.__dict__.update(self.__dict__)
        return copied

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def told(self) -> dict[str, Any]:
        """Return what was filled in."""
        return {name: value for name, value in self.__dict__.items() if value}


@cache
def records() -> dict[str, type[Record]]:
    """Return the classes by name."""
    return {name: type(name, (Record,), {"fields": tuple(fields.split())}) for name, fields in FIELDS.items()}
