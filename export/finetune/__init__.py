"""Fine-tuning: any family, COCO or VOC data, one phrase a class sampled each step."""
